"""The static page: boards and submissions in, a folder of HTML, CSV and JSON out. It only formats; every number is given.

`text` writes numbers and names, `charts` computes the geometry of the drawings, `views` says what each template sees,
`export` makes data.json and the CSV files, `render` puts it together and swaps the folder in one step.
"""

from ranker.site.pages import Sample, SubmissionPage, TrackRun
from ranker.site.render import render

__all__ = ["Sample", "SubmissionPage", "TrackRun", "render"]
