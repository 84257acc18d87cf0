"""Recovery: what a lossy pass damaged is repaired from unlabelled inputs, layer by layer or by distillation."""

from tersor.recover.correspondence import Correspondence
from tersor.recover.course import Course
from tersor.recover.distill import Distilled, distill
from tersor.recover.records import LayerRecord
from tersor.recover.recovery import METHODS, Recovered, recover

__all__ = ["METHODS", "Correspondence", "Course", "Distilled", "LayerRecord", "Recovered", "distill", "recover"]
