// The chips below the prompt. The prompt is what counts: they show which of their words it says, put words into it, and take
// them out again.
const ccldChips = (() => {
  const GROUPS = ["subject", "palette", "medium"];

  const all = (group) => [...document.querySelectorAll(group ? `.chip[data-group="${group}"]` : ".chip")];
  const wholeWords = (words) => `(?<![\\p{L}\\p{N}])${words}(?![\\p{L}\\p{N}])`;
  const isIn = (text, chip) => new RegExp(wholeWords(chip.dataset.words), "iu").test(text);

  // The parts of a prompt of chips' words alone, as it says them: "a cat in winter, ink". Null for other prompts.
  function partsOf(prompt) {
    const [subject, ...others] = GROUPS.map((group) => `(${all(group).map((chip) => chip.dataset.words).join("|")})`);
    const pattern = `^${subject}?${others.map((words) => `(?:(?:^|,?\\s+)${words})?`).join("")}$`;
    const found = new RegExp(pattern, "iu").exec(prompt.trim());
    return found && Object.fromEntries(GROUPS.map((group, i) => [group, found[i + 1]]));
  }

  function prompt({ subject, palette, medium }) {
    const begin = [subject, palette].filter(Boolean).join(" ");
    return [begin, medium].filter(Boolean).join(", ");
  }

  let added = ""; // what chips have added to a person's own words, with the comma before it

  // A person's own words, and the parts that chips may change.
  function read(text) {
    const parts = partsOf(text);
    if (parts) return { own: "", parts };
    if (!added || !text.endsWith(added)) return { own: text.trim(), parts: {} };
    return { own: text.slice(0, -added.length).trim(), parts: partsOf(added.replace(/^,/, "")) };
  }

  // A text without the words of a chip, and without the comma that they leave.
  function without(text, chip) {
    const words = wholeWords(chip.dataset.words);
    const rest = chip.dataset.group === "palette" ? withoutAdjective(text, words) : text;
    return rest
      .replace(new RegExp(`(?:\\s*,)?\\s*${words}(?=\\s*(?:,|$))|\\s*${words}`, "giu"), "")
      .replace(/^[\s,]+/, "");
  }

  // Of "an autumn forest", "a forest" is left.
  function withoutAdjective(text, words) {
    const article = (_, a, letter) => `${a[0]}${/[aeiou]/i.test(letter) ? "n" : ""} `;
    return text.replace(new RegExp(`\\b(an?)\\s+${words}\\s+(?=(\\p{L}))`, "giu"), article);
  }

  // The prompt after a click on a chip.
  function toggle(text, chip) {
    const { own, parts } = read(text);
    const { group } = chip.dataset;
    const isSaid = isIn(text, chip);
    if (!isSaid) parts[group] = chip.dataset.text;
    else if (parts[group] && isIn(parts[group], chip)) delete parts[group];
    const kept = (isSaid ? without(own, chip) : own).replace(/[\s,]+$/, "");
    const written = prompt(parts);
    added = kept && written ? `${/[.!?:;]$/.test(kept) ? "" : ","} ${written}` : "";
    return added ? kept + added : kept || written;
  }

  // Shows which chips a prompt says.
  function show(text) {
    for (const chip of all()) {
      const isSaid = isIn(text ?? "", chip);
      chip.setAttribute("aria-pressed", String(isSaid));
      if (isSaid) bringIntoSight(chip);
    }
  }

  // On a phone, the chips of a group are in a line that scrolls.
  function bringIntoSight(chip) {
    const line = chip.parentElement;
    const [place, ends] = [chip.getBoundingClientRect(), line.getBoundingClientRect()];
    if (place.left < ends.left || place.right > ends.right) line.scrollLeft += place.left - ends.left;
  }

  const MOVES = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };

  // A group is one stop of the Tab key; arrow keys move within it.
  function stopAt(chip) {
    for (const other of all(chip.dataset.group)) other.tabIndex = other === chip ? 0 : -1;
  }

  function onKey(event) {
    const chip = event.target.closest?.(".chip");
    if (!chip || !(event.key in MOVES)) return;
    event.preventDefault();
    const chips = all(chip.dataset.group);
    const place = Math.min(Math.max(chips.indexOf(chip) + MOVES[event.key], 0), chips.length - 1);
    stopAt(chips[place]);
    chips[place].focus();
  }

  document.addEventListener("keydown", onKey);
  return { toggle, show, stopAt };
})();
window.ccldChips = ccldChips;
