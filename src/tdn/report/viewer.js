// Turns the drawings of structures: drag them, or use the arrow keys. Without this they stay as they were drawn.
for (const svg of document.querySelectorAll("svg.structure")) {
  const scene = svg.querySelector("g");
  // Circles have one point, lines two: x to the right, y down, z towards the viewer.
  const parts = [...scene.children].map((node) => ({ node, p: node.dataset.p.split(",").map(Number) }));
  const lift = { error: 1.0, bond: -0.3 };
  const depth = ({ node, p }) => (node.classList.contains("error") ? p[2] + lift.error
    : p.length > 3 ? (p[2] + p[5]) / 2 + (node.classList.contains("bond") ? lift.bond : 0) : p[2]);

  function place({ node, p }) {
    const names = p.length > 3 ? [["x1", 0], ["y1", 1], ["x2", 3], ["y2", 4]] : [["cx", 0], ["cy", 1]];
    for (const [name, k] of names) node.setAttribute(name, p[k].toFixed(3));
  }

  function turn(right, down) {
    const [cx, sx, cy, sy] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
    for (const { p } of parts) {
      for (let k = 0; k < p.length; k += 3) {
        const x = cx * p[k] + sx * p[k + 2];
        const z = cx * p[k + 2] - sx * p[k];
        [p[k], p[k + 1], p[k + 2]] = [x, cy * p[k + 1] + sy * z, cy * z - sy * p[k + 1]];
      }
    }
    parts.forEach(place);
    parts.sort((a, b) => depth(a) - depth(b));
    scene.append(...parts.map((part) => part.node));
  }

  let last = null;
  svg.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (last === null) return;
    turn((event.clientX - last[0]) / 100, (event.clientY - last[1]) / 100);
    last = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => { last = null; });
  const steps = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
  svg.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    turn(...steps[event.key]);
  });
}
