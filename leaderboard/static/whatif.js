// The panel that weighs tasks otherwise: sliders, presets, what changes, and the command that computes the same.
"use strict";

const whatif = (() => {
  const LEADERS = 6;

  // What a preset's weights are; null where the board has nothing of the kind. Keys stand in the buttons' data.
  const PRESETS = {
    official: () => ({ tasks: {}, groups: {} }),
    flat: (board) => ranking.flat(board),
    signal: (board) => ranking.only(board, (task) => task.signal !== false),
    domain: (board, name) => ranking.only(board, (task) => task.domain === name),
    group: (board, name) => ranking.only(board, (task) => task.group === name),
  };

  // How many ranked rows stand elsewhere, and who is first now. Pure.
  function summary(board, results) {
    const both = results.filter((each) => each.rank !== null && each.row.rank !== null);
    const moved = both.filter((each) => each.rank !== each.row.rank).length;
    const most = both.reduce((found, each) => {
      const by = Math.abs(each.rank - each.row.rank);
      return by > found.by ? { by, team: each.row.team } : found;
    }, { by: 0, team: "" });
    return { ranked: both.length, moved, most, first: results.filter((each) => each.rank === 1).map((each) => each.row.team) };
  }

  class Panel {
    // `change(weights, isFinal)` is called while a slider moves, and once more, final, when it is let go.
    constructor(panel, board, change) {
      this.panel = panel;
      this.board = board;
      this.change = change;
      this.weights = { tasks: {}, groups: {} };
      this.sliders = [...panel.querySelectorAll("input[data-task]")];
      this.group = panel.querySelector("input[data-group]");
      panel.addEventListener("input", (event) => this.moved(event.target, false));
      panel.addEventListener("change", (event) => this.moved(event.target, true));
      panel.addEventListener("click", (event) => {
        const preset = event.target.closest("[data-preset]")?.dataset.preset;
        if (preset === undefined) return;
        const [kind, name] = preset.split(":");
        this.change(PRESETS[kind](board, name), true);
      });
      const shown = panel.querySelector(".command code");
      site.copyButton(panel.querySelector(".copy-command"), shown, () => shown.textContent);
      site.copyButton(panel.querySelector(".copy-link"), shown, () => location.href);
    }

    moved(input, isFinal) {
      const weights = { tasks: { ...this.weights.tasks }, groups: { ...this.weights.groups } };
      if (input === this.group) {
        const percent = Number(input.value);
        weights.groups = { [input.dataset.other]: (100 - percent) / 100, [input.dataset.group]: percent / 100 };
      } else {
        weights.tasks[input.dataset.task] = Number(input.value) * Number(input.dataset.official);
      }
      this.change(ranking.differing(this.board, weights), isFinal);
    }

    // Shows these weights in every control, and what comes of them; `results` is null for the official ranking. A panel
    // that is closed waits until it is opened.
    show(weights, results) {
      this.weights = weights;
      this.waiting = this.panel.hidden ? results : undefined;
      if (this.panel.hidden) return;
      const shares = ranking.shares(this.board, weights);
      this.sliders.forEach((input) => {
        const place = this.board.tasks.findIndex((task) => task.name === input.dataset.task);
        const factor = ranking.taskWeight(this.board.tasks[place], weights) / Number(input.dataset.official);
        const percent = `${(shares[place] * 100).toFixed(1)}%`;
        this.place(input, factor, `×${Number(factor.toFixed(2))}`, percent);
      });
      if (this.group) {
        const groups = ranking.groupWeights(this.board, weights);
        const share = groups[this.group.dataset.group] / (groups[this.group.dataset.group] + groups[this.group.dataset.other]);
        const percent = Number.isNaN(share) ? "0%" : `${Number((share * 100).toFixed(1))}%`;
        this.place(this.group, share * 100, "", percent);
      }
      this.say(weights, results);
    }

    opened() {
      if (this.waiting !== undefined) this.show(this.weights, this.waiting);
    }

    place(input, value, factor, percent) {
      if (document.activeElement !== input || Number(input.value) !== value) input.value = value;
      input.setAttribute("aria-valuetext", `${factor} ${percent} of the score`.trim());
      const line = input.closest(".slider");
      line.querySelector("output").textContent = percent;
      line.classList.toggle("changed", factor === "" ? !ranking.isOfficial({ tasks: {}, groups: this.weights.groups }) : factor !== "×1");
      line.classList.toggle("out", percent === "0.0%" || percent === "0%");
    }

    say(weights, results) {
      const { panel, board } = this;
      const isOfficial = results === null;
      panel.querySelector(".result").replaceChildren(...(isOfficial ? ["These are the official weights."] : this.sentence(results)));
      panel.querySelector(".command").hidden = isOfficial;
      panel.querySelector(".reset").disabled = isOfficial;
      panel.querySelector(".leaders").replaceChildren(...(isOfficial ? [] : this.leaders(results)));
      panel.querySelector(".command code").textContent = ranking.command(board, weights);
    }

    // Who would be on top, with the way they came.
    leaders(results) {
      const first = table.ordered(this.board, results, null).filter((each) => each.rank !== null).slice(0, LEADERS);
      return first.map((each) => site.element("li", {}, site.element("b", {}, String(each.rank)),
        site.element("bdi", {}, each.row.team), ...table.moved(each)));
    }

    sentence(results) {
      const { ranked, moved, most, first } = summary(this.board, results);
      if (first.length === 0) return ["With these weights no task counts, so nobody has a score."];
      const name = (team) => site.element("bdi", {}, team);
      const who = first.length === 1 ? ["First is ", name(first[0]), "."] : [`${first.length} teams share the first rank.`];
      if (moved === 0) return ["No rank changes. ", ...who];
      return [`${moved} of ${ranked} ranks change; `, name(most.team), ` moves furthest, by ${most.by}. `, ...who];
    }
  }

  return { Panel, PRESETS, summary };
})();
