"use strict";
// Points out prompts in the planes of hidden states. All text goes in through textContent; the page works without this.
const { texts, planes } = JSON.parse(document.getElementById("spots").textContent);
const SVG = "http://www.w3.org/2000/svg";
const REACH = 14; // picture units within which a pointer finds a mark

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
const kind = tip.appendChild(document.createElement("b"));
const prompt = tip.appendChild(document.createElement("bdi"));
document.body.append(tip);

for (const svg of document.querySelectorAll("svg.plane")) {
  const marks = planes[Number(svg.dataset.plane)];
  const order = marks.map((_, i) => i).sort((a, b) => marks[a][0] - marks[b][0]);
  const ring = document.createElementNS(SVG, "circle");
  ring.setAttribute("class", "ring");
  ring.setAttribute("r", "5");
  let at = -1; // place in `order`, for the arrow keys

  const hide = () => {
    tip.hidden = true;
    ring.remove();
  };
  const show = (index) => {
    const [x, y, text] = marks[index];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    svg.append(ring);
    [kind.textContent, prompt.textContent] = texts[text];
    tip.hidden = false;
    const place = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(place.x + 12, room))}px`;
    tip.style.top = `${place.y + 14 + tip.offsetHeight > innerHeight ? place.y - 12 - tip.offsetHeight : place.y + 14}px`;
  };
  const nearest = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = marks.map(([x, y]) => Math.hypot(x - place.x, y - place.y));
    const index = far.indexOf(Math.min(...far));
    return far[index] <= REACH ? index : -1;
  };
  const point = (event) => {
    const index = nearest(event);
    at = order.indexOf(index);
    index < 0 ? hide() : show(index);
  };

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.tabIndex = 0;
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    at = (Math.max(at, step < 0 ? 0 : -1) + step + order.length) % order.length;
    show(order[at]);
  });
}
