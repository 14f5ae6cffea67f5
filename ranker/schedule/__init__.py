"""When the queue will be empty: durations as they were measured here, and the queue played through with them.

`durations`: how long jobs took, from the history of attempts and the manifests. `line`: what waits and runs, in the
order of claims. `play`: the jobs put on so many workers, many times over. `forecast`: what follows of that. `mixing`:
whether what waits would make one board.
"""

from ranker.schedule.durations import Durations, Sample, Samples, measured
from ranker.schedule.forecast import Ask, Forecast, foresee
from ranker.schedule.line import Question, Task, tasks
from ranker.schedule.mixing import Mixture, mixtures

__all__ = [
    "Ask",
    "Durations",
    "Forecast",
    "Mixture",
    "Question",
    "Sample",
    "Samples",
    "Task",
    "foresee",
    "measured",
    "mixtures",
    "tasks",
]
