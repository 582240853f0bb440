"use strict";
// Sorting is all that the page needs a script for: without one the tables stand as written.
const SIZES = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };

// The first number of a cell: "0.8860 [0.87, 0.90]" is 0.886, "1,234" is 1234, "237k" is 237000, "-" is none.
function numberOf(text) {
  const found = /([-+\u2212]?)((?:\d[\d,]*)?\.?\d+)(?:e([-+]?\d+))?([kMGTP](?![A-Za-z]))?/.exec(text);
  if (!found) return null;
  const size = Number(found[2].replaceAll(",", "") + (found[3] ? "e" + found[3] : "")) * (SIZES[found[4]] || 1);
  return found[1] === "-" || found[1] === "\u2212" ? -size : size;
}

function textOf(text) {
  return text === "" || text === "-" ? null : text;
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
}

function sort(head) {
  const table = head.closest("table");
  const body = table.tBodies[0];
  const falling = head.getAttribute("aria-sort") === "ascending";
  const read = head.classList.contains("num") ? numberOf : textOf;
  const rows = [...body.rows].map((row) => [read(row.cells[head.cellIndex].textContent.trim()), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return falling ? compare(b, a) : compare(a, b);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  body.append(...rows.map(([, row]) => row));
}

for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}
