/** A neighbour's place among the sources: no configured one can have it, for their names begin with a letter or digit. */
export const NEIGHBOUR = "_neighbour";
