"""What users would pick instead: each file runs in its own environment, since their dependencies exclude ours."""
