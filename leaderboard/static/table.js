// One board's table: what its columns are, in which order its rows stand, what is left out, and other ranks on top of it.
"use strict";

const table = (() => {
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const folded = (text) => text.normalize("NFKD").replace(/\p{Mn}/gu, "").toLowerCase();

  // Keys of a board's columns. Tasks have their own names; a dot begins what no task can be called.
  const GENERAL = [".rank", ".team", ".score", ".ranks", ".tier", ".first"];
  const groupKeys = (board) => [...new Set(board.tasks.map((task) => task.group))].map((group) => `.${group}`);
  const columns = (board) => [...GENERAL, ...groupKeys(board), ...board.tasks.map((task) => task.name)];

  // What a column sorts by; null where there is nothing, which stays last in both directions.
  function valueOf(board, key, result) {
    const { row } = result;
    switch (key) {
      case ".rank": return result.score === null ? null : result.place;
      case ".team": return row.team;
      case ".score": return result.score;
      case ".ranks": return row.ranks === null ? null : row.ranks[0] * 1e6 + row.ranks[1];
      case ".tier": return row.tier;
      case ".first": return row.first;
      default:
        if (key.startsWith(".")) return result.groups[key.slice(1)] ?? null;
        return row.raw[board.tasks.findIndex((task) => task.name === key)];
    }
  }

  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
  }

  // Results of ranking.rank in the order of a column, `sort` null for the ranking itself: by score, baselines below
  // their equals, and what has no score last. Pure.
  function ordered(board, results, sort) {
    const inOrder = [...results].sort((a, b) => compare(a.score, b.score, -1) || a.row.baseline - b.row.baseline);
    inOrder.forEach((result, index) => { result.place = index + 1; });
    if (sort === null) return inOrder;
    const keyed = inOrder.map((result) => [valueOf(board, sort.key, result), result]);
    keyed.sort((a, b) => compare(a[0], b[0], sort.descending ? -1 : 1));
    return keyed.map(([, result]) => result);
  }

  // What the board itself says, in the shape of ranking.rank.
  const official = (board) => board.rows.map((row) => ({ row, rank: row.rank, score: row.score, groups: row.groups }));

  // How far a result's rank lies from the official one, as an element, or nothing.
  function moved({ rank, row }) {
    if (rank === null || row.rank === null || rank === row.rank) return [];
    const by = Math.abs(row.rank - rank);
    const isUp = rank < row.rank;
    return [site.element("small", { class: isUp ? "up" : "down" }, `${isUp ? "▲" : "▼"}${by}`,
      site.element("span", { class: "hidden" }, isUp ? ` ${by} up` : ` ${by} down`))];
  }

  class Table {
    constructor(section, board) {
      this.board = board;
      this.card = section.querySelector(".card");
      this.table = section.querySelector("table.board");
      this.heads = [...this.table.querySelectorAll(".heads th")];
      this.keys = this.heads.map((head) => head.dataset.key);
      this.rows = new Map([...this.table.querySelectorAll("tr[data-row]")].map((line) => [Number(line.dataset.row), line]));
      this.homes = new Map([...this.rows].map(([index, line]) => [index, line.parentElement]));
      this.query = "";
      this.ranked = this.table.querySelector("tbody.ranked");
      this.shown = JSON.stringify([null, address.NONE.weights]); // as the page was built
      this.tips();
    }

    // Shows what the reader chose; `results` are those of ranking.rank, null for the official ranking.
    show(state, results) {
      const order = JSON.stringify([state.sort, state.weights]);
      if (order !== this.shown) this.order(state.sort, results);
      this.shown = order;
      this.filter(state.query);
      this.leaveOut(state.hidden);
    }

    order(sort, results) {
      const shown = ordered(this.board, results ?? official(this.board), sort);
      const places = new Map(this.board.rows.map((row, index) => [row, index]));
      const lines = new Map(); // of each body, in order
      for (const result of shown) {
        const index = places.get(result.row);
        const line = this.rows.get(index);
        const home = result.score === null ? this.homes.get(index) : this.ranked;
        if (lines.has(home)) lines.get(home).push(line);
        else lines.set(home, [line]);
        if (results !== null || this.isOverlaid) this.overlay(line, result, results !== null);
      }
      this.isOverlaid = results !== null;
      for (const [home, own] of lines) {
        const there = home.querySelectorAll("tr[data-row]");
        if (there.length !== own.length || own.some((line, index) => line !== there[index])) home.append(...own);
      }
      for (const body of this.table.tBodies) body.hidden = body.querySelector("tr[data-row]") === null;
      this.heads.forEach((head) => {
        const chosen = (sort?.key ?? ".rank") === head.dataset.key;
        head.setAttribute("aria-sort", !chosen ? "none" : sort?.descending ? "descending" : "ascending");
      });
      this.table.dataset.order = sort === null || (sort.key === ".rank" && !sort.descending) ? "rank" : "other";
      this.table.classList.toggle("what-if", results !== null);
    }

    // Another rank and score on top of the official ones, which stay in the page and come back with the official order.
    overlay(line, result, isWhatIf) {
      for (const old of line.querySelectorAll(".other")) old.remove();
      if (!isWhatIf) return;
      const { row } = result;
      const { element, number } = site;
      const place = (key) => line.cells[this.keys.indexOf(key)];
      place(".rank").append(element("span", { class: "other" }, result.rank === null ? "–" : String(result.rank),
        ...moved(result)));
      const before = row.score === null ? "not ranked" : number(row.score, this.board.digits);
      place(".score").append(element("span", { class: "other" },
        element("strong", {}, result.score === null ? "incomplete" : number(result.score, 4)),
        element("small", {}, `official ${before}`)));
      for (const key of groupKeys(this.board).filter((each) => this.keys.includes(each))) {
        place(key).append(element("span", { class: "other" }, number(result.groups[key.slice(1)] ?? null, this.board.digits)));
      }
    }

    filter(query) {
      const wanted = folded(query.trim());
      if (wanted === this.query) return;
      this.query = wanted;
      this.names ??= new Map([...this.rows].map(([index]) => [index, folded(this.board.rows[index].team)]));
      let seen = 0;
      for (const [index, line] of this.rows) {
        line.hidden = !this.names.get(index).includes(wanted);
        seen += !line.hidden;
      }
      this.table.classList.toggle("filtered", wanted !== "");
      this.card.querySelector(".count").textContent = wanted === "" ? "" : `${seen} of ${this.rows.size} teams`;
      this.card.querySelector(".none").hidden = seen > 0;
    }

    leaveOut(hidden) {
      const said = hidden.join(",");
      if (said === (this.leftOut ?? "")) return;
      this.leftOut = said;
      const out = this.keys.map((key) => hidden.includes(key));
      for (const line of this.table.querySelectorAll("tr.heads, tr[data-row], tfoot tr")) {
        out.forEach((isOut, index) => { line.cells[index].hidden = isOut; });
      }
      this.table.querySelectorAll("col").forEach((column, index) => { column.hidden = out[index]; });
      for (const span of this.table.querySelectorAll(".spans [data-keys]")) {
        const left = span.dataset.keys.split(" ").filter((key) => this.keys.includes(key) && !hidden.includes(key));
        span.hidden = left.length === 0;
        span.colSpan = Math.max(left.length, 1);
        // In rows of boxes (site.css, `swift`), as wide as what it spans.
        const width = left.reduce((sum, key) => sum + Number(getComputedStyle(this.heads[this.keys.indexOf(key)]).flexGrow), 0);
        if (width > 0) span.style.setProperty("--w", String(width));
      }
      const width = out.filter((isOut) => !isOut).length;
      for (const rest of this.table.querySelectorAll(".divider td:last-child")) rest.colSpan = Math.max(width - 2, 1);
    }

    // A cell's title with its interval is made when somebody points at it: 4,000 of them would be half of the page.
    tips() {
      this.table.addEventListener("pointerover", (event) => {
        const cell = event.target.closest("td");
        const line = cell?.closest("tr[data-row]");
        if (!line || cell.title) return;
        const row = this.board.rows[Number(line.dataset.row)];
        const place = this.board.tasks.findIndex((task) => task.name === this.keys[cell.cellIndex]);
        if (place < 0 || row.raw[place] === null) return;
        const interval = row.intervals[place];
        const range = interval === null ? "" : `, 95% interval ${site.number(interval[0])}–${site.number(interval[1])}`;
        cell.title = `${row.team}, ${this.board.tasks[place].title}: ${site.number(row.raw[place], 4)}${range}`;
      });
    }
  }

  return { Table, columns, ordered, moved, official };
})();
