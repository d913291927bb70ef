"""The question of `benchmarks.evidence` put to any model of a ComfyUI, with pictures and judges of one's own."""
