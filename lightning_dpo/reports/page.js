"use strict";
// A click on a heading sorts its column, the first time with the largest value first.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentNode, body = head.closest("table").tBodies[0];
    const index = [...head.parentNode.children].indexOf(head);
    const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const key = (row) => row.children[index].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [parseFloat(a), parseFloat(b)];
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // empty cells are last
      const ascending = Number.isNaN(x) ? a.localeCompare(b) : x - y;
      return order === "ascending" ? ascending : -ascending;
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
// The field above the samples shows only those that contain its text.
for (const field of document.querySelectorAll("input[data-filter]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const one of document.querySelectorAll(field.dataset.filter)) {
      one.hidden = !one.textContent.toLowerCase().includes(wanted);
    }
  });
}
