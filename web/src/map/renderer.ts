// Draws points with WebGL 2: five bytes per point in GPU memory, nine in the first levels, one draw call per tile.

// regl compiles code with eval, which the page's security policy forbids, and the layers of deck.gl upload all data
// again whenever a tile is loaded, so this file replaces both.

import { clamp } from "../data/geometry";
import type { TilePoints, VisibleTile } from "../data/tilePoints";
import type { Camera } from "./camera";

const VERTEX_SHADER = `#version 300 es
layout(location = 0) in vec2 position;
layout(location = 1) in uint colorIndex;
uniform vec2 origin;    // corner of the tile, in pixels from the center of the view
uniform float step;     // pixels per quantization step
uniform vec2 view;      // pixels
uniform float size;     // pixels
uniform float opacity;
uniform sampler2D palette;
out vec4 color;
void main() {
  vec4 entry = texelFetch(palette, ivec2(int(colorIndex), 0), 0);
  color = vec4(entry.rgb, 1.0) * (entry.a * opacity);
  vec2 clip = (origin + (position + 0.5) * step) / view * 2.0;
  gl_Position = entry.a > 0.0 ? vec4(clip, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = size + 1.0;
}`;

const FRAGMENT_SHADER = `#version 300 es
precision highp float;
uniform float size;
uniform float rim;      // pixels
uniform vec3 background;
in vec4 color;
out vec4 result;
void main() {
  float distance = length(gl_PointCoord - 0.5) * (size + 1.0);
  float coverage = clamp(size * 0.5 + 0.5 - distance, 0.0, 1.0);
  if (coverage <= 0.0) discard;
  // A rim in the color of the background separates overlapping points.
  float inner = rim > 0.0 ? clamp(size * 0.5 + 0.5 - rim - distance, 0.0, 1.0) : 1.0;
  result = mix(vec4(background * color.a, color.a), color, inner) * coverage;
}`;

const UNIFORMS = ["origin", "step", "view", "size", "opacity", "rim", "background"] as const;
/** Points smaller than `minSize` pixels have no rim; the rim of larger ones grows up to `maxWidth`. */
const RIM = { minSize: 5, growth: 0.35, maxWidth: 1.1 };

interface TileBuffers {
  vertexArray: WebGLVertexArrayObject;
  positions: WebGLBuffer;
  colors: WebGLBuffer;
}

/** How points look in one frame. */
export interface PointStyle {
  /** Diameter in CSS pixels. */
  size: number;
  opacity: number;
  /** Color behind the map: red, green and blue from 0 to 1. */
  background: readonly number[];
  /** Milliseconds over which a new tile fades in. */
  fadeMs: number;
}

/** Draws points. */
export interface PointRenderer {
  resize(width: number, height: number, pixelRatio: number): void;
  /** Sets the 256 colors that indices stand for, as RGBA. */
  setPalette(colors: Uint8Array): void;
  /** Takes the points of a tile with their color indices, or only new indices if it has the tile already. */
  upload(points: TilePoints, colorIndices: Uint8Array): void;
  /** Frees the memory of a tile. */
  remove(points: TilePoints): void;
  /** Draws a frame. Returns whether some tile is still fading in. */
  draw(tiles: readonly VisibleTile[], camera: Camera, style: PointStyle, now: number): boolean;
}

/** Points in a view. */
interface Frame {
  tiles: readonly VisibleTile[];
  view: string;
}

export class Renderer implements PointRenderer {
  private readonly buffers = new Map<TilePoints, TileBuffers>();
  /** What is on the canvas; null where it has to be drawn again in any case. */
  private drawn: Frame | null = null;
  private readonly program: WebGLProgram;
  private readonly uniforms: Record<(typeof UNIFORMS)[number], WebGLUniformLocation | null>;
  private readonly palette: WebGLTexture;

  private constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly gl: WebGL2RenderingContext,
  ) {
    this.program = linkProgram(gl);
    const locations = UNIFORMS.map((name) => [name, gl.getUniformLocation(this.program, name)]);
    this.uniforms = Object.fromEntries(locations) as typeof this.uniforms;
    this.palette = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  }

  /** Creates a renderer, or returns null where the browser has no WebGL 2. */
  static create(canvas: HTMLCanvasElement): Renderer | null {
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false, premultipliedAlpha: true });
    return gl && !gl.isContextLost() ? new Renderer(canvas, gl) : null;
  }

  resize(width: number, height: number, pixelRatio: number): void {
    this.canvas.width = Math.max(1, Math.round(width * pixelRatio));
    this.canvas.height = Math.max(1, Math.round(height * pixelRatio));
    this.drawn = null;
  }

  setPalette(colors: Uint8Array): void {
    const { gl } = this;
    this.drawn = null;
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colors);
  }

  upload(points: TilePoints, colorIndices: Uint8Array): void {
    const { gl } = this;
    this.drawn = null;
    let buffers = this.buffers.get(points);
    if (!buffers) {
      buffers = this.createBuffers(points);
      this.buffers.set(points, buffers);
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.colors);
    gl.bufferData(gl.ARRAY_BUFFER, colorIndices, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
  }

  remove(points: TilePoints): void {
    const buffers = this.buffers.get(points);
    if (!buffers) return;
    this.drawn = null;
    this.gl.deleteVertexArray(buffers.vertexArray);
    this.gl.deleteBuffer(buffers.positions);
    this.gl.deleteBuffer(buffers.colors);
    this.buffers.delete(points);
  }

  draw(tiles: readonly VisibleTile[], camera: Camera, style: PointStyle, now: number): boolean {
    const frame = { tiles, view: viewKey(camera, style) };
    // The canvas keeps what is on it: a million points are not drawn again for a tooltip.
    if (this.drawn && isSameFrame(this.drawn, frame)) return false;
    const { gl, uniforms } = this;
    this.startFrame(camera, style);
    let isFading = false;
    for (const { points, count } of tiles) {
      const buffers = this.buffers.get(points);
      if (!buffers || !count) continue;
      const fade = style.fadeMs ? Math.min(1, (now - points.loadedAt) / style.fadeMs) : 1;
      isFading ||= fade < 1;
      const { tile } = points;
      gl.bindVertexArray(buffers.vertexArray);
      // The corner is computed in double precision here, so that points do not jitter at high zoom.
      gl.uniform2f(uniforms.origin, (tile.left - camera.x) * camera.scale, (tile.bottom - camera.y) * camera.scale);
      gl.uniform1f(uniforms.step, (tile.side / tile.steps) * camera.scale);
      gl.uniform1f(uniforms.opacity, style.opacity * fade);
      gl.drawArrays(gl.POINTS, 0, count);
    }
    gl.bindVertexArray(null);
    this.drawn = isFading ? null : frame;
    return isFading;
  }

  private startFrame(camera: Camera, style: PointStyle): void {
    const { gl, uniforms } = this;
    const pixelRatio = this.canvas.width / camera.width;
    const [red, green, blue] = style.background;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.uniform2f(uniforms.view, camera.width, camera.height);
    gl.uniform1f(uniforms.size, style.size * pixelRatio);
    gl.uniform1f(uniforms.rim, clamp((style.size - RIM.minSize) * RIM.growth, 0, RIM.maxWidth) * pixelRatio);
    gl.uniform3f(uniforms.background, red, green, blue);
  }

  /** Uploads positions, and leaves the buffer of colors bound to its attribute. */
  private createBuffers(points: TilePoints): TileBuffers {
    const { gl } = this;
    const buffers = { vertexArray: gl.createVertexArray(), positions: gl.createBuffer(), colors: gl.createBuffer() };
    const isWide = points.x instanceof Uint32Array;
    const pairs = isWide ? new Uint32Array(points.n * 2) : new Uint16Array(points.n * 2);
    for (let i = 0; i < points.n; i++) {
      pairs[2 * i] = points.x[i];
      pairs[2 * i + 1] = points.y[i];
    }
    gl.bindVertexArray(buffers.vertexArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.positions);
    gl.bufferData(gl.ARRAY_BUFFER, pairs, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, isWide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.colors);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_BYTE, 0, 0);
    return buffers;
  }
}

/** Returns a text that is the same for frames with the same camera and style. */
function viewKey(camera: Camera, style: PointStyle): string {
  const { x, y, scale, width, height } = camera;
  return [x, y, scale, width, height, style.size, style.opacity, ...style.background].join();
}

/** Whether two frames show the same points in the same view. */
function isSameFrame(a: Frame, b: Frame): boolean {
  return (
    a.view === b.view &&
    a.tiles.length === b.tiles.length &&
    a.tiles.every(({ points, count }, i) => points === b.tiles[i].points && count === b.tiles[i].count)
  );
}

function linkProgram(gl: WebGL2RenderingContext): WebGLProgram {
  const program = gl.createProgram();
  for (const [type, source] of [
    [gl.VERTEX_SHADER, VERTEX_SHADER],
    [gl.FRAGMENT_SHADER, FRAGMENT_SHADER],
  ] as const) {
    const shader = gl.createShader(type);
    if (!shader) throw new Error("WebGL cannot create a shader: its context is lost.");
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`WebGL cannot link the shaders: ${gl.getProgramInfoLog(program) ?? ""}`);
  }
  return program;
}
