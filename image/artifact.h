// SPDX-License-Identifier: Apache-2.0
// OCI artifacts as layers: what each blob of an artifact contributes to the tree under which it is
// mounted. docs/artifacts.md states the rules: models (ModelPack), files pushed by ORAS, Helm
// charts, and any other blobs. Pure functions of untrusted bytes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "image/layer_form.h"
#include "image/manifest.h"

namespace imagefs {

// True unless the configuration's type is that of an image. An image may declare an artifact type
// and is an image regardless.
bool IsArtifact(const Manifest& manifest);

// The type under which an artifact is shown: its artifactType, else that of its configuration.
std::string ArtifactTypeOf(const Manifest& manifest);

struct ArtifactLayer {
  Descriptor blob;
  LayerForm form;
};

// In the order of the manifest; a later one replaces what an earlier one has at the same path. The
// empty blob that stands for "no content" is left out, and a blob that is listed twice with the
// same path is listed once. `config`: the configuration's bytes, which need not be JSON.
//
// Returns kInvalidArgument for a path that CheckFilePath refuses, for two files at the same path or
// one below the other, for metadata that is malformed, says another size than the blob's, or
// describes no regular file, and for an artifact without any file.
absl::StatusOr<std::vector<ArtifactLayer>> LayersOfArtifact(const Manifest& manifest,
                                                            std::string_view config);

}  // namespace imagefs
