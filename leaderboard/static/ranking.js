// A board ranked with any weights, by the formulas of docs/protocol.md, section 4, as ranker/scoring.py computes them.
// Pure: values in, values out. `board` is an entry of SCORES; `weights` is {tasks: {name: weight}, groups: {name:
// weight}} and holds only what differs from the committee's; a weight of 0 leaves a task, or a group's tasks, out.
"use strict";

const ranking = (() => {
  // The exact sum, rounded once (Shewchuk 1997, as Python's math.fsum): equal scores stay equal in any order of tasks.
  function sum(values) {
    const partials = [];
    for (let value of values) {
      let kept = 0;
      for (let partial of partials) {
        if (Math.abs(value) < Math.abs(partial)) [value, partial] = [partial, value];
        const high = value + partial;
        const low = partial - (high - value);
        if (low !== 0) partials[kept++] = low;
        value = high;
      }
      partials.length = kept;
      partials.push(value);
    }
    let total = partials.pop() ?? 0;
    let rest = 0;
    while (partials.length > 0 && rest === 0) {
      const before = total;
      const partial = partials.pop();
      total = before + partial;
      rest = partial - (total - before);
    }
    // Half-way cases go to the even neighbour only if nothing smaller decides.
    const next = partials.at(-1);
    if (next !== undefined && ((rest < 0 && next < 0) || (rest > 0 && next > 0))) {
      const twice = rest * 2;
      if (twice === total + twice - total) total += twice;
    }
    return total;
  }

  const mean = (values, weights) => sum(values.map((value, index) => value * weights[index])) / sum(weights);

  const normalized = (task, raw) => (raw - task.worst) / (task.best - task.worst);

  const taskWeight = (task, weights) => (Object.hasOwn(weights.tasks, task.name) ? weights.tasks[task.name] : task.weight ?? 1);

  const groupWeights = (board, weights) => (board.groupWeights ? { ...board.groupWeights, ...weights.groups } : null);

  // Groups in the board's order, each with the places and weights of its tasks that count.
  function counted(board, weights) {
    const shares = groupWeights(board, weights);
    const groups = new Map();
    board.tasks.forEach((task, index) => {
      const weight = taskWeight(task, weights);
      if (!(weight > 0) || (shares && !(shares[task.group] > 0))) return;
      if (!groups.has(task.group)) groups.set(task.group, { name: task.group, share: shares?.[task.group], places: [], weights: [] });
      const group = groups.get(task.group);
      group.places.push(index);
      group.weights.push(weight);
    });
    return [...groups.values()];
  }

  // A row's score and its groups' means; null where a task that counts is missing, or none counts.
  function means(board, row, weights, groups = counted(board, weights)) {
    const own = {};
    const values = groups.map((group) => group.places.map((place) => normalized(board.tasks[place], row.raw[place])));
    const missing = groups.map((group) => group.places.some((place) => row.raw[place] === null));
    groups.forEach((group, index) => {
      own[group.name] = missing[index] ? null : mean(values[index], group.weights);
    });
    if (groups.length === 0 || missing.includes(true)) return { score: null, groups: own };
    const score = board.groupWeights
      ? mean(groups.map((group) => own[group.name]), groups.map((group) => group.share))
      : mean(values.flat(), groups.flatMap((group) => group.weights));
    return { score, groups: own };
  }

  // Every row with its rank and score under these weights, in the board's order of rows. Equals share the best rank;
  // baselines and pending rows have none, and nobody's rank counts them.
  function rank(board, weights) {
    const groups = counted(board, weights);
    const found = board.rows.map((row) => (row.pending
      ? { row, rank: null, score: null, groups: {} }
      : { row, rank: null, ...means(board, row, weights, groups) }));
    const ranked = found.filter((each) => each.score !== null && !each.row.baseline);
    const scores = ranked.map((each) => each.score).sort((a, b) => b - a);
    const places = new Map();
    scores.forEach((score, index) => { if (!places.has(score)) places.set(score, index + 1); });
    for (const each of ranked) each.rank = places.get(each.score);
    return found;
  }

  // The share of the track's score that each task decides, in the board's order; they add up to 1.
  function shares(board, weights) {
    const found = board.tasks.map(() => 0);
    const groups = counted(board, weights);
    const total = sum(board.groupWeights ? groups.map((group) => group.share) : groups.flatMap((group) => group.weights));
    for (const group of groups) {
      const whole = board.groupWeights ? sum(group.weights) : total;
      group.places.forEach((place, index) => {
        found[place] = (group.weights[index] / whole) * (board.groupWeights ? group.share / total : 1);
      });
    }
    return found;
  }

  const isOfficial = (weights) => Object.keys(weights.tasks).length + Object.keys(weights.groups).length === 0;

  // Without what is the committee's own choice anyway.
  function differing(board, weights) {
    const tasks = board.tasks.filter((task) => Object.hasOwn(weights.tasks, task.name) && weights.tasks[task.name] !== task.weight);
    const groups = Object.keys(board.groupWeights ?? {}).filter(
      (name) => name in weights.groups && weights.groups[name] !== board.groupWeights[name],
    );
    return {
      tasks: Object.fromEntries(tasks.map((task) => [task.name, weights.tasks[task.name]])),
      groups: Object.fromEntries(groups.map((name) => [name, weights.groups[name]])),
    };
  }

  // Weights under which only these tasks count, each as much as before.
  function only(board, wanted) {
    const tasks = board.tasks.filter((task) => !wanted(task)).map((task) => [task.name, 0]);
    return { tasks: Object.fromEntries(tasks), groups: {} };
  }

  // One flat mean: every task alike, whatever its group.
  function flat(board) {
    const groups = Object.keys(board.groupWeights ?? {});
    const size = (name) => board.tasks.filter((task) => task.group === name).length;
    return differing(board, {
      tasks: Object.fromEntries(board.tasks.map((task) => [task.name, 1])),
      groups: Object.fromEntries(groups.map((name) => [name, size(name)])),
    });
  }

  // The command that computes the same on the organizers' side.
  function command(board, weights) {
    const words = ["ranker rank", `--benchmark ${board.benchmark}`, `--track ${board.track}`];
    for (const [name, weight] of Object.entries(weights.tasks)) words.push(`--weight ${name}=${weight}`);
    for (const [name, weight] of Object.entries(weights.groups)) words.push(`--group-weight ${name}=${weight}`);
    return words.join(" ");
  }

  return { sum, mean, normalized, taskWeight, groupWeights, means, rank, shares, isOfficial, differing, only, flat, command };
})();
