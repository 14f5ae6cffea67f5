// Two to four submissions of one track side by side, as the address says: compare.html#track-a?pick=0f3a,77c1.
"use strict";

(() => {
  const { element, drawing, number } = site;
  const MOST = 4;
  const WIDTH = 200;
  const LANE = 13;
  const DIGITS = 4; // of scores side by side, which often differ by less than a thousandth

  const marker = (index) => element("i", { class: `series series-${index + 1}`, "aria-hidden": "true" });
  const name = (row) => element("bdi", {}, row.team);
  const who = (index, row) => element("span", { class: "who" }, marker(index), name(row));
  const range = (interval, digits = 3) => (interval === null ? "" : `${number(interval[0], digits)}–${number(interval[1], digits)}`);
  // A name where nothing isolates it from the words around it: between direction-isolating marks.
  const isolated = (text) => `\u2068${text}\u2069`;

  // Circle, square, diamond, triangle: told apart without colours.
  function shape(index, x, y) {
    const paths = [
      `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`,
      `M${x - 3.6} ${y - 3.6}h7.2v7.2h-7.2z`,
      `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
      `M${x} ${y - 4.6}l4.8 8.2h-9.6z`,
    ];
    return drawing("path", { class: `mark-${index + 1}`, d: paths[index] });
  }

  // Scores of several rows on one task, each on a line of its own, from the metric's worst (left) to its best (right).
  function chart(lines) {
    const height = lines.length * LANE + 4;
    const at = (value) => Math.round((6 + Math.min(Math.max(value, 0), 1) * (WIDTH - 12)) * 100) / 100;
    const made = drawing("svg", { class: "dots", viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height, "aria-hidden": "true", focusable: "false" });
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) made.append(drawing("line", { class: "grid", x1: at(tick), x2: at(tick), y1: 0, y2: height }));
    lines.forEach((line, index) => {
      if (line === null) return;
      const y = 2 + LANE * (index + 0.5);
      if (line.low !== null) made.append(drawing("line", { class: `whisker mark-${index + 1}`, x1: at(line.low), x2: at(line.high), y1: y, y2: y }));
      made.append(shape(index, at(line.value), y));
    });
    return made;
  }

  class Comparison {
    constructor(root) {
      this.root = root;
      this.find = (selector) => root.querySelector(selector);
      this.boards = SCORES.filter((board) => this.candidates(board).length > 1);
      if (this.boards.length === 0) {
        this.find(".picker").hidden = true;
        this.find(".hint").textContent = "There are no two submissions with scores yet.";
        root.hidden = false;
        return;
      }
      const tracks = this.find(".pick-track select");
      for (const board of this.boards) tracks.append(element("option", { value: board.slug }, `${board.track}: ${board.title}`));
      this.find(".pick-track").hidden = this.boards.length < 2;
      tracks.addEventListener("change", () => this.go(tracks.value, []));
      this.find(".picker").addEventListener("submit", (event) => event.preventDefault());
      this.find(".task-order").addEventListener("change", () => this.tasks());
      addEventListener("popstate", () => this.show());
      root.hidden = false;
      this.show();
    }

    candidates(board) {
      return board.rows.filter((row) => row.raw.some((value) => value !== null));
    }

    go(track, picked) {
      history.pushState(null, "", address.format({ ...address.NONE, track, picked }));
      this.show();
    }

    // Without a choice: the first two of the ranking.
    show() {
      const state = address.parse(location.hash, this.boards, table.columns);
      this.board = this.boards.find((board) => board.slug === state.track);
      const chosen = state.picked.map((id) => this.board.rows.find((row) => row.id === id));
      this.rows = chosen.length > 0 ? chosen : this.candidates(this.board).slice(0, 2);
      this.find(".pick-track select").value = this.board.slug;
      this.pickers();
      const isEnough = this.rows.length > 1;
      this.find(".hint").textContent = isEnough ? "" : "Choose one more to compare it with.";
      this.find(".compared").hidden = !isEnough;
      if (!isEnough) return;
      this.cards();
      this.sure();
      this.key();
      this.tasks();
    }

    pickers() {
      const box = this.find(".pick-teams");
      const focused = [...box.querySelectorAll("select")].indexOf(document.activeElement);
      const count = Math.min(this.rows.length + 1, MOST);
      box.replaceChildren(...Array.from({ length: count }, (_, index) => this.picker(index)));
      box.querySelectorAll("select")[focused]?.focus();
    }

    picker(index) {
      const chosen = this.rows[index];
      const select = element("select", {}, element("option", { value: "" }, chosen ? "(take away)" : "Add a team…"));
      for (const row of this.candidates(this.board)) {
        const option = element("option", { value: row.id }, `${row.rank ?? "–"}  ${isolated(row.team)}`);
        option.disabled = row !== chosen && this.rows.includes(row);
        option.selected = row === chosen;
        select.append(option);
      }
      select.addEventListener("change", () => {
        const picked = this.rows.map((row) => row.id);
        picked.splice(index, 1, ...(select.value === "" ? [] : [select.value]));
        this.go(this.board.slug, picked);
      });
      return element("label", {}, element("span", {}, chosen ? marker(index) : "", chosen ? `Team ${index + 1}` : "Another"), select);
    }

    cards() {
      const { board, rows } = this;
      const leads = pairs.leads(board, rows);
      const fact = (label, ...value) => element("div", {}, element("dt", {}, label), element("dd", {}, ...value));
      this.find(".cards").replaceChildren(...rows.map((row, index) => {
        const link = row.href === null ? name(row) : element("a", { href: row.href }, name(row));
        const ranks = row.ranks === null ? "" : element("small", {}, ` ${row.ranks[0]}–${row.ranks[1]}`);
        const score = [number(row.score, board.digits), row.interval === null ? "" : element("small", {}, ` ${range(row.interval)}`)];
        return element("li", { class: `of-${index + 1}` },
          element("h2", {}, marker(index), link),
          element("dl", {},
            fact("Rank", row.rank === null ? (row.baseline ? "baseline" : "none") : String(row.rank), ranks),
            fact("Score", ...score),
            ...Object.entries(row.groups).length > 1
              ? Object.entries(row.groups).map(([group, value]) => fact(`${group} mean`, number(value, board.digits))) : [],
            row.tier === null ? null : fact("Tier", String(row.tier)),
            fact("Alone ahead on", `${leads.alone[index]} of ${leads.tasks}`, element("small", {}, " tasks"))));
      }));
    }

    sure() {
      const { board } = this;
      this.find(".pairs").replaceChildren(...pairs.every(this.rows).map(([one, other]) => {
        const known = pairs.certainty(board, one, other);
        const places = [this.rows.indexOf(known.first), this.rows.indexOf(known.second)];
        return element("li", {},
          element("p", {}, who(places[0], known.first), " and ", who(places[1], known.second)),
          element("p", {}, ...this.verdict(known)));
      }));
    }

    verdict(known) {
      if (known.by === null) return ["One of them has no score, so nothing can be said of the two as a whole."];
      const words = [element("b", {}, `${number(known.by, 4)} apart`), known.by === 0 ? "" : " in the score"];
      if (known.kind === "paired") {
        const isApart = known.low > 0 || known.high < 0;
        words.push(`; 95% interval of the difference ${number(known.low, 4)} to ${number(known.high, 4)}`,
          isApart ? ", which leaves out 0" : ", which holds 0",
          `. The first is ahead in ${Math.round(known.ahead * 1000) / 10}% of the draws; p = ${known.p} for no difference, of this pair alone.`);
      } else if (known.kind === "unknown") {
        words.push(". The difference of these two was not tested here");
        words.push(testing(this.board, known));
      } else words.push(". One of them takes no rank, so the difference was not tested.");
      if (known.next !== null) words.push(` As neighbours, corrected for all of them: p = ${Number(known.next.toPrecision(3))}.`);
      if (known.sameTier !== null) words.push(known.sameTier ? " Both stand in the same tier." : " They stand in different tiers.");
      return words;
    }

    key() {
      this.find(".series-key").replaceChildren(...this.rows.map((row, index) => who(index, row)));
      const basis = this.board.overTasks
        ? "Only task scores are known of this table, so no task's score has an interval."
        : "Lines are 95% intervals over test items, of each score alone; where two overlap, their difference may still be certain.";
      this.find(".remark").textContent = `Each task is drawn from its metric's worst value, left, to its best, right; “by” says how far ahead on that scale. ${basis}`;
    }

    tasks() {
      const { board, rows } = this;
      const order = this.find(".task-order").value;
      const places = board.tasks.map((_, place) => place);
      const size = {
        board: null,
        gap: (place) => pairs.gap(board, rows, place),
        first: (place) => {
          const others = rows.slice(1).map((row) => pairs.difference(board, rows[0], row, place)).filter((each) => each !== null);
          return others.length === 0 ? null : Math.min(...others);
        },
      }[order];
      if (size) places.sort((a, b) => (size(b) ?? -Infinity) - (size(a) ?? -Infinity) || a - b);
      this.find(".versus thead").replaceChildren(element("tr", {}, element("th", { scope: "col" }, "Task"),
        element("th", { scope: "col", class: "dots-head" }, "Worst to best"),
        ...rows.map((row, index) => element("th", { scope: "col", class: "n" }, marker(index), name(row))),
        element("th", { scope: "col" }, "Ahead")));
      this.find(".versus tbody").replaceChildren(...this.totals(), ...places.map((place) => this.task(place)));
    }

    // The lines above the tasks: the score and, with several groups, their means.
    totals() {
      const { rows, board } = this;
      const groups = [...new Set(board.tasks.map((task) => task.group))];
      const line = (label, values, intervals) => this.line("total", [element("b", {}, label)], values, intervals,
        values.map((value) => number(value, board.digits)), board.digits);
      return [
        line("Score of the track", rows.map((row) => row.score), rows.map((row) => row.interval)),
        ...(groups.length > 1 ? groups.map((group) => line(`Mean of ${group} tasks`, rows.map((row) => row.groups[group] ?? null), rows.map(() => null))) : []),
      ];
    }

    task(place) {
      const { rows, board } = this;
      const task = board.tasks[place];
      const head = [element("span", {}, task.title), element("small", {}, [task.name, task.domain, task.metric, task.signal === false && "no signal"].filter(Boolean).join(" · "))];
      const scaled = (interval) => interval?.map((end) => ranking.normalized(task, end)).sort((a, b) => a - b) ?? null;
      return this.line("", head, rows.map((row) => pairs.value(board, row, place)), rows.map((row) => scaled(row.intervals[place])),
        rows.map((row) => number(row.raw[place], DIGITS)), DIGITS, rows.map((row) => row.intervals[place]));
    }

    // One line of the table. `values` and `intervals` on the scale from 0 to 1; `texts` and `shown` as scored.
    line(kind, head, values, intervals, texts, digits, shown = intervals) {
      const known = values.filter((value) => value !== null).sort((a, b) => b - a);
      const leaders = values.flatMap((value, index) => (value !== null && value === known[0] ? [index] : []));
      const lanes = values.map((value, index) => (value === null ? null : { value, low: intervals[index]?.[0] ?? null, high: intervals[index]?.[1] ?? null }));
      const ahead = known.length < 2 ? ["–"] : leaders.length > 1
        ? [...leaders.map(marker), element("span", {}, "equal")]
        : [marker(leaders[0]), element("span", { class: "hidden" }, `${this.rows[leaders[0]].team} `), element("span", {}, `by ${number(known[0] - known[1], digits)}`)];
      return element("tr", { class: kind },
        element("th", { scope: "row" }, ...head),
        element("td", { class: "dots-cell" }, chart(lanes)),
        ...texts.map((text, index) => element("td", { class: leaders.length === 1 && leaders[0] === index ? "n leads" : "n" },
          element("span", {}, text), shown[index] ? element("small", {}, range(shown[index])) : "")),
        element("td", { class: "ahead" }, ...ahead));
    }
  }

  // Where the page does not know, the organizers' command does.
  function testing(board, known) {
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const who = [known.first, known.second].map((row) => (board.imported ? quoted(row.team) : row.id)).join(" ");
    const command = `ranker compare ${who} --benchmark ${board.benchmark} --track ${board.track}`;
    return element("span", {}, "; the organizers' ", element("code", {}, command), " does it.");
  }

  document.addEventListener("DOMContentLoaded", () => new Comparison(document.querySelector(".compare")));
})();
