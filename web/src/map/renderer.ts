// Draws points with WebGL 2: five bytes a point on the card, nine in the first levels, one draw call a tile.

import { clamp, type Camera } from "./camera";
import type { Drawn, Points } from "../data/tileCache";

// regl makes its code by eval, which the page's security policy forbids, and the layers of deck.gl take the whole
// data again whenever a tile comes; what is needed of either is this file.

const VERTEX = `#version 300 es
layout(location = 0) in vec2 at;
layout(location = 1) in uint color;
uniform vec2 origin;    // corner of the tile, in pixels from the centre of the view
uniform float step;     // pixels for one step of a position
uniform vec2 view;      // pixels
uniform float size;     // pixels
uniform float opacity;
uniform sampler2D palette;
out vec4 ink;
void main() {
  vec4 found = texelFetch(palette, ivec2(int(color), 0), 0);
  ink = vec4(found.rgb, 1.0) * (found.a * opacity);
  vec2 place = (origin + (at + 0.5) * step) / view * 2.0;
  gl_Position = found.a > 0.0 ? vec4(place, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = size + 1.0;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform float size;
uniform float rim;      // pixels
uniform vec3 ground;
in vec4 ink;
out vec4 result;
void main() {
  float far = length(gl_PointCoord - 0.5) * (size + 1.0);
  float cover = clamp(size * 0.5 + 0.5 - far, 0.0, 1.0);
  if (cover <= 0.0) discard;
  // A rim of the ground keeps points apart that lie on each other.
  float inner = rim > 0.0 ? clamp(size * 0.5 + 0.5 - rim - far, 0.0, 1.0) : 1.0;
  result = mix(vec4(ground * ink.a, ink.a), ink, inner) * cover;
}`;

const UNIFORMS = ["origin", "step", "view", "size", "opacity", "rim", "ground"] as const;
/** Points of fewer pixels have no rim; larger ones have more of it, up to a limit. */
const RIM = { from: 5, share: 0.35, most: 1.1 };

interface Buffers {
  array: WebGLVertexArrayObject;
  places: WebGLBuffer;
  colors: WebGLBuffer;
}

/** How points look in one frame. */
export interface Look {
  /** Diameter in pixels of the page. */
  size: number;
  opacity: number;
  /** What is behind the map: red, green and blue from 0 to 1. */
  ground: readonly number[];
  /** Milliseconds over which a new tile appears. */
  fade: number;
}

export class Renderer {
  private readonly held = new Map<Points, Buffers>();
  private readonly program: WebGLProgram;
  private readonly places: Record<(typeof UNIFORMS)[number], WebGLUniformLocation | null>;
  private readonly palette: WebGLTexture;

  private constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly gl: WebGL2RenderingContext,
  ) {
    this.program = program(gl);
    const found = UNIFORMS.map((name) => [name, gl.getUniformLocation(this.program, name)]);
    this.places = Object.fromEntries(found) as typeof this.places;
    this.palette = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  }

  /** Makes a renderer, or returns null where the browser has no WebGL 2. */
  static on(canvas: HTMLCanvasElement): Renderer | null {
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false, premultipliedAlpha: true });
    return gl && !gl.isContextLost() ? new Renderer(canvas, gl) : null;
  }

  resize(width: number, height: number, ratio: number): void {
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
  }

  /** Sets the colours that indices stand for: 256 times red, green, blue, opacity. */
  setPalette(colors: Uint8Array): void {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colors);
  }

  /** Puts the points of a tile on the card, or gives those there other colours. */
  put(points: Points, colors: Uint8Array): void {
    const { gl } = this;
    let buffers = this.held.get(points);
    if (!buffers) {
      buffers = { array: gl.createVertexArray(), places: gl.createBuffer(), colors: gl.createBuffer() };
      this.held.set(points, buffers);
      const fine = points.x instanceof Uint32Array;
      const pairs = fine ? new Uint32Array(points.n * 2) : new Uint16Array(points.n * 2);
      for (let i = 0; i < points.n; i++) {
        pairs[2 * i] = points.x[i];
        pairs[2 * i + 1] = points.y[i];
      }
      gl.bindVertexArray(buffers.array);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers.places);
      gl.bufferData(gl.ARRAY_BUFFER, pairs, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(0);
      gl.vertexAttribPointer(0, 2, fine ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, false, 0, 0);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers.colors);
      gl.enableVertexAttribArray(1);
      gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_BYTE, 0, 0);
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.colors);
    gl.bufferData(gl.ARRAY_BUFFER, colors, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
  }

  drop(points: Points): void {
    const buffers = this.held.get(points);
    if (!buffers) return;
    this.gl.deleteVertexArray(buffers.array);
    this.gl.deleteBuffer(buffers.places);
    this.gl.deleteBuffer(buffers.colors);
    this.held.delete(points);
  }

  /** Draws a frame. Returns whether some tile is still fading in. */
  draw(drawn: readonly Drawn[], camera: Camera, look: Look, now: number): boolean {
    const { gl, places } = this;
    const ratio = this.canvas.width / camera.width;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.uniform2f(places.view, camera.width, camera.height);
    gl.uniform1f(places.size, look.size * ratio);
    gl.uniform1f(places.rim, clamp((look.size - RIM.from) * RIM.share, 0, RIM.most) * ratio);
    gl.uniform3f(places.ground, look.ground[0], look.ground[1], look.ground[2]);
    let fading = false;
    for (const { points, count } of drawn) {
      const buffers = this.held.get(points);
      if (!buffers || !count) continue;
      const age = look.fade ? Math.min(1, (now - points.since) / look.fade) : 1;
      fading ||= age < 1;
      const { tile } = points;
      gl.bindVertexArray(buffers.array);
      // The corner is found in double precision, so that points stand still however far the view zooms in.
      gl.uniform2f(places.origin, (tile.left - camera.x) * camera.scale, (tile.bottom - camera.y) * camera.scale);
      gl.uniform1f(places.step, (tile.side / tile.steps) * camera.scale);
      gl.uniform1f(places.opacity, look.opacity * age);
      gl.drawArrays(gl.POINTS, 0, count);
    }
    gl.bindVertexArray(null);
    return fading;
  }
}

function program(gl: WebGL2RenderingContext): WebGLProgram {
  const made = gl.createProgram();
  for (const [kind, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ] as const) {
    const shader = gl.createShader(kind);
    if (!shader) throw new Error("WebGL gave no shader: its context is lost.");
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`WebGL did not link the shaders: ${gl.getProgramInfoLog(made) ?? ""}`);
  }
  return made;
}
