// Something that is made anew only where what it was made of changes.

export class Cached<T> {
  private constructor(
    private readonly key: readonly unknown[],
    private readonly made: T,
  ) {}

  /** What was made for an owner, of the things in `key`; made now where these are others. */
  static of<K extends WeakKey, T>(all: WeakMap<K, Cached<T>>, owner: K, key: readonly unknown[], make: () => T): T {
    const known = all.get(owner);
    if (known?.key.length === key.length && key.every((each, i) => each === known.key[i])) return known.made;
    const made = make();
    all.set(owner, new Cached(key, made));
    return made;
  }
}
