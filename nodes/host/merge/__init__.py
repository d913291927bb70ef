"""The sources of a merge on one model: matched, combined, applied and reported."""
