"""What a submission costs before it is run: clips, hours, bytes, FLOPs, and the time to expect by a measured minute."""

from ranker.estimate.crew import EncoderFacts
from ranker.estimate.forecast import Forecast, Span
from ranker.estimate.plan import Estimate, estimate
from ranker.estimate.report import to_json

__all__ = ["EncoderFacts", "Estimate", "Forecast", "Span", "estimate", "to_json"]
