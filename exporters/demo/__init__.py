"""How the demo's model and predictor were made: tasks, the tuned adapter, and the predictor's training."""
