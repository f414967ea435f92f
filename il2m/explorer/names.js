// Names and states that ipywidgets gives its controls for the eye alone, told to screen readers too.

const WORDS = { "fa-play": "play the states", "fa-pause": "pause", "fa-stop": "stop", "fa-retweet": "play in a loop" };

function tell(explorer) {
  for (const handle of explorer.querySelectorAll(".widget-slider [role=slider]")) {
    handle.setAttribute("aria-label", handle.closest(".widget-slider").querySelector(".widget-label").textContent);
  }
  for (const icon of explorer.querySelectorAll(".widget-play button i")) {
    const word = Object.keys(WORDS).find((name) => icon.classList.contains(name));
    icon.parentElement.setAttribute("aria-label", WORDS[word]);
  }
  for (const looped of explorer.querySelectorAll(".widget-play button:last-child")) {
    looped.setAttribute("aria-pressed", looped.classList.contains("mod-active"));
  }
  for (const group of explorer.querySelectorAll(".widget-toggle-buttons")) {
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", group.querySelector(".widget-label").textContent);
  }
  for (const button of explorer.querySelectorAll(".widget-toggle-button")) {
    button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
  }
}

export default {
  render({ el }) {
    let frame;
    const observer = new MutationObserver(([{ target }]) => tell(target.closest(".il2m-explorer")));
    const begin = () => {
      const explorer = el.closest(".il2m-explorer"); // which the page may not hold yet
      if (explorer) {
        tell(explorer);
        observer.observe(explorer, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
      } else {
        frame = requestAnimationFrame(begin);
      }
    };
    begin();
    return () => {
      cancelAnimationFrame(frame);
      observer.disconnect();
    };
  },
};
