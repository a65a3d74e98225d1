"""How the report looks (`STYLE`), and the script that sorts its table (`SCRIPT`); the page is whole without it."""

from __future__ import annotations

STYLE = """
:root { --paper: #fff; --ink: #1b1f24; --faint: #5b6570; --line: #d8dee4; --band: #f5f7f9; --link: #0b5cad;
  --done: #1a7f45; --failed: #c4262e; --interrupted: #9a6200; --running: #0b5cad; --waiting: #6b7580; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e4e8ec; --faint: #9aa5b1; --line: #333b45; --band: #1c2229; --link: #76b4f7;
    --done: #4cc38a; --failed: #ff7b81; --interrupted: #e0a83e; --running: #76b4f7; --waiting: #9aa5b1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 100rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .4rem 0; }
a { color: var(--link); text-underline-offset: .15em; }
.faint { color: var(--faint); }
.counts { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; padding: 0; margin: 1rem 0 .5rem; }
.counts b { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.bar { display: block; width: 100%; height: .6rem; border-radius: .3rem; }
.done { color: var(--done); fill: var(--done); }
.failed { color: var(--failed); fill: var(--failed); }
.interrupted { color: var(--interrupted); fill: var(--interrupted); }
.running { color: var(--running); fill: var(--running); }
.waiting, .no-prompt, .other { color: var(--waiting); fill: var(--waiting); }
dl.failed { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem 1.2rem; margin: 0;
  color: inherit; border-left: .25rem solid var(--failed); padding-left: 1rem; }
dt { max-width: 22rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin-top: .6rem; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
dt, dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--paper); white-space: nowrap; font-weight: 600; color: var(--faint); }
th button { all: unset; cursor: pointer; color: inherit; }
th button:hover { color: var(--ink); }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.name { min-width: 10rem; max-width: 22rem; overflow-wrap: anywhere; }
td.said { min-width: 14rem; overflow-wrap: anywhere; }
tbody tr:hover { background: var(--band); }
tr:target, figure:target { outline: 2px solid var(--link); outline-offset: -1px; }
.outcome { font-weight: 600; white-space: nowrap; }
.sheets { display: grid; gap: 1rem; }
.sheets.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.sheets.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
figure { margin: 0; padding: .5rem; border: 1px solid var(--line); border-radius: .4rem; background: var(--band); }
figure img { display: block; width: 100%; height: auto; background: #fafafa; }
figcaption { padding-top: .4rem; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10px; }
  a { color: inherit; text-decoration: none; }
  nav { display: none; }
  th { position: static; }
  tr, figure, dt, dd { break-inside: avoid; }
  .wide { overflow: visible; }
  .sheets.large { grid-template-columns: 1fr 1fr; }
  .sheets.small { grid-template-columns: repeat(4, 1fr); }
  * { print-color-adjust: exact; }
}
"""

SCRIPT = """
"use strict";
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const column = head.cellIndex, numeric = head.hasAttribute("data-numeric");
    const key = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent;
      return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return up ? order : -order;
    };
    const body = head.closest("table").tBodies[0];
    body.append(...[...body.rows].sort(compare));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
}
"""
