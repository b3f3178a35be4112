// The parts of the page that need no server. `ccld` is what the page's events call.
const ccld = (() => {
  const HISTORY = "ccld-history";
  const KEPT = 24;

  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];

  const openButtons = (selector) => all(selector).filter((button) => button.offsetParent !== null);

  // Presses the button of the open tab.
  function press() {
    forgetNotice();
    openButtons(".paint-button")[0]?.click();
  }

  // The notice is about a link or a picture that was given before.
  const forgetNotice = () => find("#notice")?.classList.add("old");

  // From the press of a button until its event has ended, well or not. Gradio ignores another press meanwhile.
  let isPainting = false;

  // Before a request is sent. Returns the progress.
  function begin() {
    isPainting = true;
    return '<div class="running"><div class="bar"><div></div></div><p>Waiting for the painter</p></div>';
  }

  // Presses the button with a text as soon as its tab is open and nothing is being painted.
  let pressing = 0;
  function pressOnce(text, tries = 200) {
    clearTimeout(pressing);
    pressing = setTimeout(() => {
      const button = openButtons(".paint-button, .animate-button").find((other) => other.textContent.trim() === text);
      if (button && !isPainting) button.click();
      else if (tries > 0) pressOnce(text, tries - 1);
    }, 50);
  }

  function fill(text, name = "prompt") {
    const field = find(`#${name} textarea`);
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, text);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // The values of a form as they are sent. An empty prompt gets its example, and so does its field, unless there is an
  // image prompt. Gradio also passes the values of the outputs, behind those of the inputs.
  function inputs(values, names, examples, changes) {
    const fields = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    for (const [name, example] of Object.entries(examples)) {
      if (fields[name]?.trim() || fields.image_prompt) continue;
      fields[name] = example;
      fill(example, name);
    }
    return names.map((name) => (name in changes ? changes[name] : fields[name]));
  }

  // After a request that was refused or cancelled: says below the field of the prompt if it is empty. Returns the progress:
  // none.
  function fail(prompts) {
    isPainting = false;
    if (prompts.some((prompt) => prompt?.trim?.() ?? prompt)) return "";
    find("#prompt").dataset.missing = "Write a prompt here: what to paint.";
    find("#prompt textarea").focus();
    return "";
  }

  function keepSeed(isKept) {
    document.documentElement.classList.toggle("keeps-seed", isKept);
  }

  const isLocal = /^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname);
  document.documentElement.classList.toggle("is-local", isLocal);

  // Browsers have a clipboard for pages of this machine and of HTTPS alone.
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const field = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(field);
      field.select();
      const isCopied = document.execCommand("copy");
      field.remove();
      return isCopied;
    }
  }

  async function copyLink(button) {
    const isCopied = await copy(find("#note a").href);
    button.textContent = isCopied ? "Copied" : "Open the link and copy its address";
    setTimeout(() => { button.textContent = "Copy link"; }, isCopied ? 2000 : 6000);
  }

  // Enter paints, Shift and Enter break the line. Gradio has it the other way round.
  function onEnter(event) {
    if (event.key !== "Enter" || event.isComposing || !event.target.closest?.("#prompt textarea")) return;
    event.stopPropagation();
    if (event.shiftKey) return;
    event.preventDefault();
    if (event.type === "keydown") press();
  }

  const tellRelease = (input) => input.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));

  // Gradio's slider tells of its release by a pointer alone.
  function onKeyUp(event) {
    if (/^(Arrow|Page|Home|End)/.test(event.key) && event.target.matches?.("#position input[type=range]")) tellRelease(event.target);
  }

  // Its number box tells of a release at every click and whenever it is left. Here it does so at Enter, and where its number
  // has changed.
  let released = null;
  function onNumber(event) {
    if (!event.target.matches?.("#position input[type=number]")) return;
    const { value } = event.target;
    if (event.type === "keydown") {
      if (event.key !== "Enter") return;
      released = null;
      tellRelease(event.target);
    } else {
      if (event.type !== "focus" && value === released) event.stopImmediatePropagation();
      released = value;
    }
  }

  // Paints an example in the first tab, in place of what is being painted.
  function paintExample(example) {
    forgetNotice();
    fill(example.dataset.prompt);
    if (isPainting) find("#cancel").click();
    openButtons('#tabs [role="tab"]')[0].click();
    pressOnce("Paint");
    const { top } = find("#wall").getBoundingClientRect();
    if (top < 0 || top > window.innerHeight / 2) find("#wall").scrollIntoView();
  }

  function onClick(event) {
    if (event.target.matches?.("#note .copy")) copyLink(event.target);
    if (event.target.closest?.('[role="tab"]')) delete find("#prompt").dataset.missing;
    if (event.target.closest?.(".paint-button, .animate-button")) {
      if (event.isTrusted) forgetNotice();
      if (!isPainting) clearTimeout(pressing); // what waits to be pressed is painted by this
    }
    if (event.isTrusted && event.target.closest?.("#cancel")) clearTimeout(pressing);
    const chip = event.target.closest?.(".chip");
    if (chip) {
      ccldChips.stopAt(chip);
      fill(ccldChips.toggle(find("#prompt textarea").value, chip));
    }
    const example = event.target.closest?.(".example");
    if (example) paintExample(example);
  }

  // After a picture gave its settings, far below: shows what came of it, the notice or else the form.
  function showRestored() {
    find("#notice").classList.remove("old");
    (find("#notice .unknown") ?? find("#prompt")).scrollIntoView({ block: "center" });
  }

  // The picture that is enlarged in the gallery, or else the first one.
  function chosen(gallery) {
    const index = all("#gallery .thumbnails .thumbnail-item").findIndex((item) => item.matches(".selected"));
    return { index: Math.max(index, 0), item: gallery?.[Math.max(index, 0)] };
  }

  // A new picture in the editor gets a brush a twelfth of its shorter side wide. Gradio's own is always 50 pixels wide.
  let radius = 25;
  async function sizeBrush(picture) {
    const image = await createImageBitmap(await picture).catch(() => null);
    if (!image) return; // not a picture
    radius = Math.max(Math.round(Math.min(image.width, image.height) / 24), 1);
    find("#brush button, button#brush")?.click(); // its event takes the brush of `brush`
  }

  const brush = (options) => ({ __type__: "update", brush: { ...options, default_size: radius } });

  // A file that is dropped beside the inputs for pictures, where a browser would open it in place of the page.
  const isBesideInputs = (event) => event.dataTransfer?.types.includes("Files") && !event.defaultPrevented;

  function onDragOver(event) {
    if (isBesideInputs(event)) event.preventDefault();
  }

  // Gives the file to the input for settings.
  function onDrop(event) {
    if (!isBesideInputs(event)) return;
    event.preventDefault();
    const { files } = event.dataTransfer;
    if (!find("#settings input[type=file]")) find("#settings [aria-label=Clear], #settings [title=Clear]")?.click();
    setTimeout(() => {
      const input = find("#settings input[type=file]");
      input.files = files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    });
  }

  function onPicture(event) {
    if (!event.target.closest?.("#editor")) return;
    const files = event.target.files ?? event.dataTransfer?.files ?? event.clipboardData?.files;
    if (files?.length) sizeBrush(files[0]);
  }

  const select = (tab) => ({ __type__: "update", selected: tab });

  function send(gallery, tab) {
    const { item } = chosen(gallery);
    if (!item) return [null, select("paint")];
    const file = { ...item.image, meta: { _type: "gradio.FileData" } };
    if (tab === "inpaint") sizeBrush(fetch(file.url).then((answer) => answer.blob()));
    return [tab === "inpaint" ? { background: file, layers: [], composite: file } : file, select(tab)];
  }

  function seedOf(gallery) {
    const { item } = chosen(gallery);
    return Number(/seed (\d+)/.exec(item?.caption ?? "")?.[1] ?? 0);
  }

  let described = { prompt: "", gallery: [] };

  // Gradio draws the pictures anew when one is enlarged, and gives them no texts for screen readers.
  function describe() {
    const name = (image, text) => { if (image.alt !== text) image.alt = text; };
    for (const image of all("#gallery img")) {
      const item = described.gallery.find(({ image: file }) => file && new URL(file.url, location).href === image.src);
      name(image, [described.prompt, item?.caption].filter(Boolean).join(", ") || "picture");
    }
    for (const image of all("#form img, #details img")) name(image, image.alt || "uploaded picture");
    all("#compare img").forEach((image, i) => name(image, ["before", "after"][i] ?? "picture"));
  }

  // After a painting: its texts for screen readers, its address, its place in the history.
  function finish(gallery, prompt, isRemembered) {
    isPainting = false;
    const link = find("#note a")?.getAttribute("href");
    history.replaceState(null, "", link ?? location.pathname); // a picture of uploads has no link
    described = { prompt, gallery: gallery ?? [] };
    describe();
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

  function forgetHistory() {
    try {
      localStorage.removeItem(HISTORY);
    } catch {
      // Frames of other sites may have no storage.
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
      forgetHistory(); // the browser's storage is full or closed
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
  document.addEventListener("dragover", onDragOver);
  document.addEventListener("drop", onDrop);
  for (const type of ["change", "drop", "paste"]) document.addEventListener(type, onPicture, true);
  document.addEventListener("keyup", onKeyUp);
  for (const type of ["focus", "keydown", "pointerup", "blur"]) document.addEventListener(type, onNumber, true);
  document.addEventListener("click", onClick);
  new MutationObserver((_, observer) => {
    if (!find("#history .entries")) return;
    observer.disconnect();
    showHistory();
    const changes = { childList: true, subtree: true, attributeFilter: ["src"] };
    new MutationObserver(describe).observe(find("#studio"), changes);
  }).observe(document.documentElement, { childList: true, subtree: true });

  return { pressOnce, begin, inputs, fail, keepSeed, showRestored, brush, send, seedOf, finish };
})();
window.ccld = ccld;
