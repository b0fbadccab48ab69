#!/bin/bash
# Builds the packages, deb and rpm, into OUT (default dist/): packaging/build.sh [VERSION]
#
# The same source gives the same bytes: times are those of the last commit, and nothing of this machine gets in. ARCHES (default
# "amd64 arm64") are those to build for, FORMATS (default "deb rpm") what to build.
set -euo pipefail
cd "$(dirname "$0")/.."
NFPM="go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.2"
version=${1:-$(git describe --tags --always 2>/dev/null || echo dev)}
version=${version#v}
[[ $version =~ ^[0-9] ]] || version="0.0.0~git$(git log -1 --format=%cd --date=format:%Y%m%d%H%M%S).$version"
export VERSION=$version RELEASE=1 OUT=${OUT:-$PWD/dist}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} TZ=UTC LC_ALL=C
build="$OUT/build"
rm -rf "$build" && mkdir -p "$build"/{man,completion,scripts}
packages=$OUT
OUT=$build

# zip compresses without a time.
zip() { gzip -9n; }

for GOARCH in ${ARCHES:-amd64 arm64}; do
	export GOARCH
	echo "building for $GOARCH" >&2
	for p in "longshore-agent ./cmd/longshore-agent" "longshore-agent-containerd ./cmd/longshore-agent ,containerd" "longshore-log ./cmd/longshore-log" "longshore-control ./cmd/longshore-control"; do
		read -r name path tags <<<"$p"
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags "grpcnotrace$tags" -o "$build/$GOARCH/$name" \
			-ldflags "-s -w -buildid= -X github.com/longshore-project/longshore/internal/version.Version=$version" "$path"
	done
	for name in longshore-agent longshore-control; do
		GOARCH= go run ./packaging/sbom "$build/$GOARCH/$name" "$version" >"$build/$GOARCH/$name.cdx.json"
	done
done
unset GOARCH

host=$(go env GOHOSTARCH)
for name in longshore-agent longshore-control; do
	for shell in bash zsh fish; do
		if [ -x "$build/$host/$name" ]; then p="$build/$host/$name"; else p="go run ./cmd/$name"; fi
		$p completion $shell >"$build/completion/$name.$shell"
	done
done
for page in packaging/man/*.8; do zip <"$page" >"$build/man/$(basename "$page").gz"; done
{
	echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
	echo "Upstream-Name: longshore"
	echo "Source: https://github.com/longshore-project/longshore"
	echo
	echo "Files: *"
	echo "Copyright: 2026 the Longshore developers"
	echo "License: Apache-2.0"
	echo " On Debian systems the license is in /usr/share/common-licenses/Apache-2.0."
} >"$build/copyright"
for name in longshore-agent longshore-control; do
	for s in packaging/scripts/"${name#longshore-}"-*.sh; do
		{ echo '#!/bin/sh'; echo 'set -e'; sed -n '/^#/!p' packaging/scripts/lib.sh; cat "$s"; } >"$build/scripts/$(basename "$s")"
		chmod 755 "$build/scripts/$(basename "$s")"
	done
done

for format in ${FORMATS:-deb rpm}; do
	for GOARCH in ${ARCHES:-amd64 arm64}; do
		for name in longshore-agent longshore-control; do
			export GOARCH ARCH=$GOARCH UNITDIR=/usr/lib/systemd/system ZSHDIR=/usr/share/zsh/site-functions DOC=doc
			if [ "$format" = deb ]; then UNITDIR=/lib/systemd/system ZSHDIR=/usr/share/zsh/vendor-completions DOC=file; fi
			printf '%s (%s-%s) unstable; urgency=medium\n\n  * See CHANGELOG.md of this version.\n\n -- The Longshore developers <maintainers@longshore.example>  %s\n' \
				"$name" "$version" "$RELEASE" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | zip >"$build/changelog.Debian.gz"
			# nfpm knows no variables in the paths of scripts and of some sources, and no patterns in what is documentation: they are put in here.
			envsubst '$ARCH $GOARCH $VERSION $RELEASE $OUT $UNITDIR $ZSHDIR $DOC' <"packaging/${name#longshore-}.yaml" | sed "s#packaging/scripts/#$build/scripts/#" |
				awk -v pages="$(cd "$build/man" && echo "$name"*.gz)" '/@page@/ { n = split(pages, page, " "); for (i = 1; i <= n; i++) { l = $0; gsub("@page@", page[i], l); print l }; next } { print }' >"$build/nfpm.yaml"
			GOARCH= $NFPM package --config "$build/nfpm.yaml" --packager "$format" --target "$packages/"
		done
	done
done
