"use strict";
// Page through the runs, which are in the page as JSON. Every value becomes text, never markup.
(() => {
  const { head, page, rows, total, columns, values, of } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const body = byId("list").tBodies[0];
  const number = new Intl.NumberFormat("en-US");
  const haystacks = rows.map((row) => row.join("\n").toLowerCase());
  const look = {
    "does not conform": ["bad", "✗"], "unreadable": ["bad", "✗"], "signature does not verify": ["bad", "✗"],
    "of another spec": ["warn", "!"], "refused": ["bad", "✗"], "unfinished": ["warn", "!"], "handed off": ["good", "✓"],
  };
  const listed = `${number.format(rows.length)} ${rows.length < total ? "listed runs" : "runs"}`;
  let found = rows, first = 0, picked = null;

  const make = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const badge = (kind) => {
    const [color, sign] = look[kind];
    return make("span", { class: `badge ${color}` }, make("span", { "aria-hidden": "true" }, sign), ` ${kind}`);
  };
  const show = () => {
    const last = Math.min(first + page, found.length);
    body.replaceChildren(...found.slice(first, last).map((row) =>
      make("tr", { role: "row" }, ...row.map((cell, column) => make(
        "td",
        { role: "cell", "data-label": head[column], class: [1, 3, 4, 6].includes(column) ? "keep" : "" },
        make("span", {}, column === 0 ? badge(cell) : cell),
      )))));
    byId("shown").textContent = found.length === 0
      ? `None of ${listed} matches.`
      : found.length === rows.length
        ? `${number.format(first + 1)} to ${number.format(last)} of ${listed}.`
        : `${number.format(first + 1)} to ${number.format(last)} of ${number.format(found.length)} matching ` +
          `runs, of ${number.format(rows.length)} ${rows.length < total ? "listed" : "in all"}.`;
    byId("before").disabled = first === 0;
    byId("after").disabled = last >= found.length;
  };
  const search = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = byId("kind").value;
    found = rows.filter((row, at) =>
      (picked === null || of[at][picked[0]] === picked[1]) &&
      (kind === "" || row[0] === kind) && words.every((word) => haystacks[at].includes(word)));
    first = 0;
    show();
  };
  const turn = (by) => () => { first += by; show(); };

  const pick = (column, value) => {
    picked = column === null ? null : [column, value];
    byId("all").hidden = picked === null;
    if (picked !== null) byId("all").textContent = `Only ${columns[column]} ${values[column][value]}: show all`;
    search();
  };

  // A value of a table becomes a button that shows its runs in the list.
  for (const table of document.querySelectorAll("table.by")) {
    const column = Number(table.dataset.column);
    for (const cell of table.querySelectorAll(".value")) {
      const value = values[column].indexOf(cell.textContent);
      if (value < 0) continue; // none of its runs is listed
      const button = make("button", { type: "button", class: "pick" }, cell.textContent);
      button.addEventListener("click", () => { pick(column, value); byId("runs").scrollIntoView(); });
      cell.replaceChildren(button);
    }
  }
  byId("by-how").append(" Choose a value to see its runs in the list.");
  byId("all").addEventListener("click", () => pick(null));
  byId("find").addEventListener("input", search);
  byId("kind").addEventListener("change", search);
  byId("before").addEventListener("click", turn(-page));
  byId("after").addEventListener("click", turn(page));
  byId("finder").hidden = false;
  search();
})();
