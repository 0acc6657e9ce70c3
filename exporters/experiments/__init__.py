"""The paper's open questions, answered on a curves file: each experiment is a function that returns a table."""
