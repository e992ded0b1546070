// What survives a reload of the page, for each library.

export const state = {
  query: null, // id of the held query
  weights: null, // {stem: weight}; null until the user or the library sets them
  loops: false, // whether stems are compared with whole sounds
  filters: {},
  favourites: [], // hits
  selected: null, // id of an item
  volume: 0.8,
  matched: true,
};

let key;

/** Read what was kept for the library in the folder `root`. */
export function restore(root) {
  key = `stemsim ${root}`;
  Object.assign(state, JSON.parse(localStorage.getItem(key)));
}

export function save() {
  localStorage.setItem(key, JSON.stringify(state));
}
