// Runs before the page is drawn, so that a chosen theme does not flash. Not a module: those wait.
try {
  const theme = localStorage.getItem("strata-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the system's theme stays.
}
