// What a reader chose, in the address behind the #: links and the back button keep it, also for pages opened as files.
// Pure. `#track-a?sort=-esc-50&q=lab&hide=.tier,gtzan&pick=0f3a,77c1&w=esc-50:2&g=hidden:0.3`: the track; the column that
// sorts (a minus: downwards); what the names contain; columns left out; submissions to compare; other weights.
"use strict";

const address = (() => {
  const NONE = Object.freeze({ track: "", sort: null, query: "", hidden: [], picked: [], weights: { tasks: {}, groups: {} } });
  const LIMIT = 300;

  const listed = (text) => (text ? text.split(",").filter(Boolean) : []);

  // `name:number,...`; what is no number from 0 upwards is left out, and so are names that nobody knows.
  function numbers(text, known) {
    const found = {};
    for (const each of listed(text)) {
      const at = each.lastIndexOf(":");
      const name = each.slice(0, at);
      const value = each.slice(at + 1).trim() === "" ? NaN : Number(each.slice(at + 1));
      if (at > 0 && known.includes(name) && Number.isFinite(value) && value >= 0) found[name] = value;
    }
    return found;
  }

  // `boards` are SCORES, `columns(board)` the keys of a board's columns. An address that says nothing sensible is no
  // error: what is not understood is as if it were not there.
  function parse(hash, boards, columns) {
    const [anchor, rest = ""] = splitOnce(hash.replace(/^#/, ""), "?");
    const board = boards.find((each) => each.slug === anchor) ?? boards[0];
    if (!board) return NONE;
    const given = new URLSearchParams(rest);
    const keys = columns(board);
    const sort = given.get("sort") ?? "";
    const key = sort.replace(/^-/, "");
    const ids = board.rows.map((row) => row.id);
    return {
      track: board.slug,
      sort: keys.includes(key) ? { key, descending: sort.startsWith("-") } : null,
      query: (given.get("q") ?? "").slice(0, LIMIT),
      hidden: keys.filter((each) => listed(given.get("hide")).includes(each)),
      picked: [...new Set(listed(given.get("pick")))].filter((id) => ids.includes(id)).slice(0, 4),
      weights: {
        tasks: numbers(given.get("w"), board.tasks.map((task) => task.name)),
        groups: numbers(given.get("g"), Object.keys(board.groupWeights ?? {})),
      },
    };
  }

  function splitOnce(text, mark) {
    const at = text.indexOf(mark);
    return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
  }

  const pairs = (values) => Object.entries(values).map(([name, value]) => `${name}:${value}`).join(",");

  // The opposite of `parse`; what is as usual is not said.
  function format(state) {
    const given = {
      sort: state.sort ? (state.sort.descending ? "-" : "") + state.sort.key : "",
      q: state.query,
      hide: state.hidden.join(","),
      pick: state.picked.join(","),
      w: pairs(state.weights.tasks),
      g: pairs(state.weights.groups),
    };
    const said = Object.entries(given).filter(([, value]) => value !== "");
    const query = said.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%3A", ":")}`);
    return `#${state.track}${query.length > 0 ? `?${query.join("&")}` : ""}`;
  }

  return { NONE, parse, format };
})();
