// What is known of how two submissions differ. Pure: entries of SCORES in, values out.
"use strict";

const pairs = (() => {
  // The normalised score of a row on the board's task at `place`; null where there is none.
  function value(board, row, place) {
    return row.raw[place] === null ? null : ranking.normalized(board.tasks[place], row.raw[place]);
  }

  // Who is best on a task among these rows: the places in `rows` of all that share the best value, none without values.
  function best(board, rows, place) {
    const values = rows.map((row) => value(board, row, place));
    const known = values.filter((each) => each !== null);
    const highest = Math.max(...known);
    return known.length === 0 ? [] : values.flatMap((each, index) => (each === highest ? [index] : []));
  }

  // On how many tasks each row alone is ahead of all the others, and on how many several share the lead.
  function leads(board, rows) {
    const found = { alone: rows.map(() => 0), shared: 0, tasks: 0 };
    board.tasks.forEach((_, place) => {
      if (rows.some((row) => row.raw[place] === null)) return;
      found.tasks += 1;
      const ahead = best(board, rows, place);
      if (ahead.length === 1) found.alone[ahead[0]] += 1;
      else found.shared += 1;
    });
    return found;
  }

  // By how much the first row is ahead on a task, on the normalised scale; null where either has no score.
  function difference(board, first, second, place) {
    const [one, other] = [value(board, first, place), value(board, second, place)];
    return one === null || other === null ? null : one - other;
  }

  // Between best and second best of several rows on a task; null below two scores.
  function gap(board, rows, place) {
    const known = rows.map((row) => value(board, row, place)).filter((each) => each !== null).sort((a, b) => b - a);
    return known.length < 2 ? null : known[0] - known[1];
  }

  // What the board says of two rows' track scores, the better one as `first`: `by` how much it is ahead. `kind` is
  // "paired" where the draws were compared (`ahead`: P(ahead), `low` and `high`: the difference's 95% interval, `p`, not
  // corrected), "unranked" where one has no rank, and "unknown" otherwise. `next`: p, corrected for all neighbours, where
  // they are neighbours. `sameTier`: whether they share a tier; null where one has none.
  function certainty(board, one, other) {
    const ranked = board.rows.filter((row) => row.rank !== null);
    const places = [ranked.indexOf(one), ranked.indexOf(other)];
    const known = { first: one, second: other, by: null, kind: "unranked", next: null, sameTier: null };
    if (one.score !== null && other.score !== null) {
      if (one.score < other.score) [known.first, known.second] = [other, one];
      known.by = Math.abs(one.score - other.score);
    }
    if (places.includes(-1)) return known;
    const [upper, lower] = places.sort((a, b) => a - b);
    [known.first, known.second] = [ranked[upper], ranked[lower]];
    if (known.first.tier !== null) known.sameTier = known.first.tier === known.second.tier;
    if (lower === upper + 1) known.next = known.first.next;
    if (board.pairs === null || lower >= board.pairs.rows) return { ...known, kind: "unknown" };
    const of = (name) => board.pairs[name][upper][lower - upper - 1];
    return { ...known, kind: "paired", ahead: of("ahead"), low: of("low"), high: of("high"), p: of("p") };
  }

  // Every two of several rows, in their order.
  function every(rows) {
    return rows.flatMap((row, index) => rows.slice(index + 1).map((other) => [row, other]));
  }

  return { value, best, leads, difference, gap, certainty, every };
})();
