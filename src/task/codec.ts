/** Values as JSON texts. */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

/** Somebody wrote a text that is no JSON where one was expected, or a step of `upgrade` has thrown. */
class JsonError extends Schema.TaggedError<JsonError>()("JsonError", { message: Schema.String }) {}

export type CodecError = Schema.SchemaError | JsonError

export interface JsonCodec<S extends Schema.Top> {
  readonly encode: (value: S["Type"]) => Effect.Effect<string, Schema.SchemaError, S["EncodingServices"]>
  readonly decode: (json: string) => Effect.Effect<S["Type"], CodecError, S["DecodingServices"]>
}

/** Steps that bring an encoding from one version to the next, by the version that they start from. */
export type Upgrade = Readonly<Record<number, (encoded: Schema.Json) => Schema.Json>>

const messageOf = (error: unknown) => Predicate.isError(error) ? error.message : String(error)

const parseJson = (text: string) =>
  Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: (error) => new JsonError({ message: messageOf(error) })
  })

export const jsonCodec = <S extends Schema.Top>(schema: S): JsonCodec<S> => {
  const codec = Schema.toCodecJson(schema)
  const encode = Schema.encodeEffect(codec)
  const decode = Schema.decodeUnknownEffect(codec)
  return {
    encode: (value) => Effect.map(encode(value), (json) => JSON.stringify(json) ?? "null"),
    decode: (json) => Effect.flatMap(parseJson(json), decode)
  }
}

/** Decodes what was encoded by this or an earlier version of a definition. */
export const versionedDecode = <S extends Schema.Top>(
  schema: S,
  current: number,
  upgrade: Upgrade
): (json: string, version: number) => Effect.Effect<S["Type"], CodecError, S["DecodingServices"]> => {
  const decode = Schema.decodeUnknownEffect(Schema.toCodecJson(schema))
  const brought = (encoded: unknown, version: number) =>
    Effect.try({
      try: () => {
        let value = encoded as Schema.Json
        for (let from = version; from < current; from++) value = upgrade[from]!(value)
        return value
      },
      catch: (error) => new JsonError({ message: `upgrade from version ${version} failed: ${messageOf(error)}` })
    })
  return (json, version) =>
    Effect.flatMap(
      parseJson(json),
      (encoded) => version >= current ? decode(encoded) : Effect.flatMap(brought(encoded, version), decode)
    )
}
