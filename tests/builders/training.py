"""A training that takes a moment."""

from exporters.demo.tasks import split_tasks
from exporters.predictors.ensemble import Recipe
from exporters.predictors.kinds import KINDS

HEADS = [kind for kind, module in KINDS.items() if module == "exporters.predictors.train"]
TEXTS = [task.question for task in split_tasks().test]
RECIPE = Recipe(
    members=3, hidden=16, epochs=60, batch=16, learning_rate=1e-2, dropout=0.1, input_dropout=0.0, mixup=0.0
)
