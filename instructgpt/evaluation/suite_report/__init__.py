"""The report of an evaluation: one HTML file that opens offline, JSON for machines, a model card a model."""

from instructgpt.evaluation.suite_report.write import write

__all__ = ["write"]
