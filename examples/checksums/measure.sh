#!/bin/sh
# What 20,000 small files cost: tasks per second, the peak memory of the Node process, which is to stay below 300 MB, and
# whether coreutils come to the same digest; RUNS times, else three times. Run it on a machine that has nothing else to do. Needs GNU time and find.
set -eu
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm exec -- node -e '
  const fs = require("node:fs")
  for (let i = 0; i < 20_000; i++) {
    const subfolder = `${process.argv[1]}/${i % 100}`
    fs.mkdirSync(subfolder, { recursive: true })
    fs.writeFileSync(`${subfolder}/${i}.txt`, `line of file ${i}\n`.repeat(i % 200))
  }
' "$folder"
expected=$(cd "$folder" && find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
for run in $(seq "${RUNS:-3}"); do
  /usr/bin/time -o "$folder.time" -f %M npm --silent start -- --json "$folder" | tail -n 1 | tee "$folder.json"
  grep -q "\"digest\":\"${expected%% *}\"" "$folder.json" || { echo "coreutils: ${expected%% *}"; exit 1; }
  memory=$(($(cat "$folder.time") / 1024))
  echo "peak memory: $memory MB"
  [ "$memory" -lt 300 ]
  rm "$folder.time" "$folder.json"
done
