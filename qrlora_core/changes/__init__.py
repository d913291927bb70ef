"""What adapters of other kinds than a low-rank sum do to a weight, one a file; several kinds may share one."""
