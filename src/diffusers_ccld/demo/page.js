// The parts of the page that need no server. `ccld` is what the page's events call.
const ccld = (() => {
  const HISTORY = "ccld-history";
  const KEPT = 24;

  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];

  // Presses the button of the open tab.
  function press() {
    all(".paint-button").find((button) => button.offsetParent !== null)?.click();
  }

  function fill(text) {
    const field = find("#prompt textarea");
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, text);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // Enter paints, Shift and Enter break the line. Gradio has it the other way round.
  function onEnter(event) {
    if (event.key !== "Enter" || event.isComposing || !event.target.closest?.("#prompt textarea")) return;
    event.stopPropagation();
    if (event.shiftKey) return;
    event.preventDefault();
    if (event.type === "keydown") press();
  }

  // Gradio's slider tells of its release by a pointer alone.
  function onKeyUp(event) {
    const moves = event.key.startsWith("Arrow") && event.target.matches?.("#position input[type=range]");
    if (moves) event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  }

  // The prompt that the pressed chips make: "a cat in winter, watercolor".
  function onChip(chip) {
    const isPressed = chip.getAttribute("aria-pressed") === "true";
    all(`.chip[data-group="${chip.dataset.group}"]`).forEach((other) => other.setAttribute("aria-pressed", "false"));
    chip.setAttribute("aria-pressed", String(!isPressed));
    const text = (group) => find(`.chip[data-group="${group}"][aria-pressed="true"]`)?.dataset.text ?? "";
    const begin = [text("subject"), text("palette")].filter(Boolean).join(" ");
    fill([begin, text("medium")].filter(Boolean).join(", "));
  }

  function onClick(event) {
    const chip = event.target.closest?.(".chip");
    if (chip) onChip(chip);
    const example = event.target.closest?.(".example");
    if (example) {
      fill(example.dataset.prompt);
      find("#prompt textarea").focus();
    }
  }

  // The picture that is enlarged in the gallery, or else the first one.
  function chosen(gallery) {
    const index = all("#gallery .thumbnails .thumbnail-item").findIndex((item) => item.matches(".selected"));
    return { index: Math.max(index, 0), item: gallery?.[Math.max(index, 0)] };
  }

  const select = (tab) => ({ __type__: "update", selected: tab });

  function send(gallery, tab) {
    const { item } = chosen(gallery);
    if (!item) return [null, select("paint")];
    const file = { ...item.image, meta: { _type: "gradio.FileData" } };
    return [tab === "inpaint" ? { background: file, layers: [], composite: file } : file, select(tab)];
  }

  function seedOf(gallery) {
    const { item } = chosen(gallery);
    return Number(/seed (\d+)/.exec(item?.caption ?? "")?.[1] ?? 0);
  }

  // After a painting: its texts for screen readers, its address, its place in the history.
  function finish(gallery, prompt, isRemembered) {
    const link = find("#note a")?.getAttribute("href");
    if (link) history.replaceState(null, "", link);
    const describe = () => all("#gallery img").forEach((image, i) => {
      image.alt = [prompt, gallery?.[i % gallery.length]?.caption].filter(Boolean).join(", ");
    });
    describe();
    setTimeout(describe, 300);
    if (isRemembered) remember(gallery, prompt, link);
  }

  async function thumbnail(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    const scale = Math.min(128 / image.naturalWidth, 128 / image.naturalHeight, 1);
    canvas.width = image.naturalWidth * scale;
    canvas.height = image.naturalHeight * scale;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.85);
  }

  function remembered() {
    try {
      return JSON.parse(localStorage.getItem(HISTORY)) ?? [];
    } catch {
      return [];
    }
  }

  async function remember(gallery, prompt, link) {
    const address = gallery?.[0]?.image?.url;
    if (!address) return;
    const entry = { prompt, link: link ?? "", picture: await thumbnail(address) };
    const others = remembered().filter((other) => !(link && other.link === link));
    try {
      localStorage.setItem(HISTORY, JSON.stringify([entry, ...others].slice(0, KEPT)));
    } catch {
      localStorage.removeItem(HISTORY); // the browser's storage is full or closed
    }
    showHistory();
  }

  function showHistory() {
    const place = find("#history .entries");
    if (!place) return;
    const entries = remembered();
    find("#history").classList.toggle("filled", entries.length > 0);
    place.replaceChildren(...entries.map(({ prompt, link, picture }) => {
      const image = Object.assign(document.createElement("img"), { src: picture, alt: prompt || "picture", title: prompt });
      const safe = /^\?/.test(link) && /^data:image\/jpeg;base64,/.test(picture);
      const entry = document.createElement(safe ? "a" : "span");
      if (safe) entry.href = link;
      entry.append(image);
      return entry;
    }));
  }

  for (const type of ["keydown", "keypress"]) document.addEventListener(type, onEnter, true);
  document.addEventListener("keyup", onKeyUp);
  document.addEventListener("click", onClick);
  new MutationObserver((_, observer) => {
    if (!find("#history .entries")) return;
    observer.disconnect();
    showHistory();
  }).observe(document.documentElement, { childList: true, subtree: true });

  const waiting = '<div class="running"><div class="bar"><div></div></div><p>Waiting for the painter</p></div>';
  return { press, send, seedOf, finish, waiting };
})();
window.ccld = ccld;
