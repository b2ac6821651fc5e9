// A typed event with listeners, by which a part of the page reports changes without knowing who needs them.

export class Emitter<T = void> {
  private readonly listeners: ((value: T) => void)[] = [];

  subscribe(listener: (value: T) => void): void {
    this.listeners.push(listener);
  }

  emit(value: T): void {
    for (const listener of this.listeners) listener(value);
  }
}
