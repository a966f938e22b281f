// Every element with text of its own: the contrast of its colour with its background (WCAG 2.2, relative luminance).
() => {
  const parse = (text) => {
    const numbers = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    const [red, green, blue, alpha = 1] = numbers;
    return [red * scale, green * scale, blue * scale, alpha];
  };
  const over = (top, bottom) => {
    const alpha = top[3];
    return [0, 1, 2].map((at) => top[at] * alpha + bottom[at] * (1 - alpha)).concat(1);
  };
  const background = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const luminance = (colour) => {
    const [red, green, blue] = colour.slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || ["SCRIPT", "title", "OPTION"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const paper = background(element);
    const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), paper);
    const [dark, light] = [luminance(paper), luminance(ink)].sort((a, b) => a - b);
    found.push({
      tag: element.tagName,
      class: element.getAttribute("class"),
      text: element.textContent.slice(0, 30),
      ratio: (light + 0.05) / (dark + 0.05),
    });
  }
  return found;
}
