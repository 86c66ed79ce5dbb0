// What tests/test_page.py asks a browser: the words that are cut, broken inside or covered by others.
() => {
  const problems = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const inSvg = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (parent.closest("script, style, title, option, .hidden, noscript") || !parent.getClientRects().length) continue;
    const frame = (parent.closest("svg, td, th, li, p, a, section") ?? document.body).getBoundingClientRect();
    const table = parent.closest("td, th, svg");
    for (const word of node.textContent.matchAll(/ESM-2|\d{4}-\d\d-\d\d|[\d.]+ %|[^\s\-–]+[-–]?/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const rects = [...range.getClientRects()];
      const tops = new Set(rects.map((each) => Math.round(each.top)));
      const right = Math.max(...rects.map((each) => each.right)), left = Math.min(...rects.map((each) => each.left));
      if (tops.size > 1) problems.push(`broken: ${word[0]}`);
      if (left < 0 || right > innerWidth) problems.push(`outside the screen: ${word[0]}`);
      if (table && (left < frame.left - 1 || right > frame.right + 1)) problems.push(`outside its place: ${word[0]}`);
    }
    if (parent.closest("svg")) inSvg.push([parent.textContent, parent.getBoundingClientRect()]);
  }
  for (const [i, [one, a]] of inSvg.entries()) for (const [other, b] of inSvg.slice(i + 1))
    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top + 3 < b.bottom - 3 && b.top + 3 < a.bottom - 3) problems.push(`${one} covers ${other}`);
  // a select shows what fits
  for (const select of document.querySelectorAll("select")) {
    const measured = document.createElement("canvas").getContext("2d");
    measured.font = getComputedStyle(select).font;
    const text = select.selectedOptions[0].text;
    if (measured.measureText(text).width > select.clientWidth - 12) problems.push(`cut: ${text}`);
  }
  return problems;
}
