// Runs before the page is painted: the colours chosen here last time ("light", "dark"; otherwise the system's).
try {
  const theme = localStorage.getItem('linnet.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's colours
}
