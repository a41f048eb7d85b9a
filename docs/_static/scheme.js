// Displays of lxcwrap follow JupyterLab's mark of a theme; here it follows this page's own switch.
addEventListener("DOMContentLoaded", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    const chosen = document.body.dataset.theme;
    document.documentElement.dataset.jpThemeLight = chosen === "dark" || (chosen !== "light" && dark.matches) ? "false" : "true";
  };
  new MutationObserver(follow).observe(document.body, { attributeFilter: ["data-theme"] });
  dark.addEventListener("change", follow);
  follow();
});
