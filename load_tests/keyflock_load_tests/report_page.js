"use strict";
// A cursor that all charts over time share, the values under it, and keys that hide their lines.
const charts = [...document.querySelectorAll("figure.chart")].map((figure) => ({
  figure, data: JSON.parse(figure.dataset.chart), svg: figure.querySelector("svg"),
  cursor: figure.querySelector(".cursor"), readout: figure.querySelector(".readout"),
  isTimeline: figure.classList.contains("timeline"),
}));

function nearest(series, x) {
  let low = 0, high = series.x.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (series.x[middle] > x) high = middle; else low = middle;
  }
  return Math.abs(series.x[low] - x) <= Math.abs(series.x[high] - x) ? low : high;
}

function show(chart, ratio, isUnderPointer) {
  const { left, right, low, high, log, series, unit } = chart.data;
  const share = Math.min(1, Math.max(0, (ratio - left) / (right - left)));
  const x = log ? low * (high / low) ** share : low + share * (high - low);
  const place = (left + share * (right - left)) * 960;
  chart.cursor.setAttribute("x1", place);
  chart.cursor.setAttribute("x2", place);
  chart.cursor.style.visibility = "visible";
  chart.readout.style.visibility = isUnderPointer ? "visible" : "hidden";
  if (!isUnderPointer) return;
  const lines = series.filter((one) => one.x.length).map((one) => {
    const value = one.y[nearest(one, x)];
    return `${one.name}: ${value === null ? "-" : value.toLocaleString()}`;
  });
  const where = chart.isTimeline ? `${x.toFixed(1)} s` : `${(100 * (1 - 1 / x)).toPrecision(5)} %`;
  chart.readout.replaceChildren(...[`${where}   (${unit})`, ...lines].map((line) => {
    const row = document.createElement("div");
    row.textContent = line;
    return row;
  }));
}

for (const chart of charts) {
  const peers = chart.isTimeline ? charts.filter((one) => one.isTimeline) : [chart];
  chart.svg.addEventListener("pointermove", (event) => {
    const box = chart.svg.getBoundingClientRect();
    for (const one of peers) show(one, (event.clientX - box.left) / box.width, one === chart);
  });
  chart.svg.addEventListener("pointerleave", () => {
    for (const one of peers) { one.cursor.style.visibility = "hidden"; one.readout.style.visibility = "hidden"; }
  });
  for (const key of chart.figure.querySelectorAll(".key")) {
    key.addEventListener("click", () => {
      key.classList.toggle("off");
      for (const line of chart.svg.querySelectorAll("g[data-name]")) {
        if (line.dataset.name === key.dataset.name) line.classList.toggle("off");
      }
    });
  }
}
