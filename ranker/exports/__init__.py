"""Boards as files for papers, notebooks and READMEs: the same board gives the same bytes. Pure, but for predictions."""

from ranker.exports.formats import frame, to_csv, to_json, to_parquet
from ranker.exports.latex import to_latex
from ranker.exports.markdown import to_markdown
from ranker.exports.predictions import prediction_frame

__all__ = ["frame", "prediction_frame", "to_csv", "to_json", "to_latex", "to_markdown", "to_parquet"]
