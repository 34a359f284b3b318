// Small values that the browser keeps, in `localStorage` or for one tab in `sessionStorage`. Where it keeps none (cookies are blocked, no room
// is left), they last as long as the page.

const refused = new Map();

/** The value of a name, or `null`. */
export function kept(storage, name) {
  try {
    return refused.get(name) ?? window[storage].getItem(name);
  } catch {
    return null;
  }
}

export function keep(storage, name, value) {
  try {
    window[storage].setItem(name, value);
    refused.delete(name);
  } catch {
    refused.set(name, value);
  }
}
