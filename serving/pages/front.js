const look = async () => {
  if (document.hidden) return;
  const now = document.getElementById("now");
  try {
    const answer = await fetch("/", { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    now.replaceChildren(...page.getElementById("now").childNodes);
  } catch {
    now.innerHTML = '<p class="fault">The front end does not answer.</p>';
  }
};
setInterval(look, 5000);
addEventListener("focus", look);
