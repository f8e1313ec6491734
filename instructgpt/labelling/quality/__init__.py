"""Agreement among labelers and the quality of their work, from plain data; no torch.

`quality_report` takes annotations, `project_quality` a project of the store; both give one `QualityReport`.
"""

from instructgpt.labelling.quality.annotations import Annotation, Known, Labeler
from instructgpt.labelling.quality.coefficients import (
    Counts,
    count_values,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
)
from instructgpt.labelling.quality.habits import Habits, habits
from instructgpt.labelling.quality.report import (
    GroupQuality,
    LabelerQuality,
    QualityReport,
    quality_report,
)
from instructgpt.labelling.quality.resampling import Estimate
from instructgpt.labelling.quality.scope import Agreement, FlagAgreement
from instructgpt.labelling.quality.stored import project_quality
from instructgpt.labelling.quality.text import report_text

__all__ = [
    "Agreement",
    "Annotation",
    "Counts",
    "Estimate",
    "FlagAgreement",
    "GroupQuality",
    "Habits",
    "Known",
    "Labeler",
    "LabelerQuality",
    "QualityReport",
    "count_values",
    "gwet_ac1",
    "habits",
    "krippendorff_alpha",
    "percent_agreement",
    "project_quality",
    "quality_report",
    "report_text",
]
