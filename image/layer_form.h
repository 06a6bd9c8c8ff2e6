// SPDX-License-Identifier: Apache-2.0
// What the uncompressed bytes of a layer are, and thus how they give its tree. A tar of an image is
// the usual form. The others are the files and tars of artifacts (image/artifact.h) and native
// EROFS layers (docs/adr/0025-artifacts-as-trees.md). Values and pure functions.
//
// A layer of another form than kTar has a name of its own where a tar has its DiffID, because the
// same bytes give another tree there: an EROFS image, for one, begins like an empty tar.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "base/json.h"
#include "image/layer_builder.h"

namespace imagefs {

// The name and attributes of a file whose content is a blob.
struct FileLabel {
  std::string path;  // see CheckFilePath
  uint32_t mode = 0644;
  uint32_t uid = 0, gid = 0;
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  bool operator==(const FileLabel&) const = default;
};

struct LayerForm {
  enum class Kind : uint8_t {
    kTar,      // a tar whose digest is the DiffID
    kBlobTar,  // a tar that is known by the digest of its blob
    kFile,     // the content of one file; never decompressed
    kErofs,    // an EROFS image whose digest is the DiffID
  };
  Kind kind = Kind::kTar;
  FileLabel file;  // kFile
  // Digest that the uncompressed bytes must have. kTar: empty, it is the DiffID. kBlobTar: empty
  // until they were hashed, unless the artifact states it.
  Digest content;

  bool is_tar() const { return kind == Kind::kTar; }
  bool operator==(const LayerForm&) const = default;
};

// The name that stands for the DiffID of a layer of that form. `of`: the DiffID of an EROFS image,
// else the digest of the blob. REQUIRES: not kTar.
Digest NameOfForm(const LayerForm& form, const Digest& of);

// Writes the form as one JSON value, and reads it.
void WriteForm(const LayerForm& form, JsonWriter& writer);
absl::StatusOr<LayerForm> ReadForm(const Json& json);

// Returns kInvalidArgument unless the path is relative and stays inside the root: no empty, "." or
// ".." component, no NUL, no name over 255 bytes or path over 4,095, and no name that a tar would
// take for a whiteout.
absl::Status CheckFilePath(std::string_view path);

// The tree of a layer that is one file of that size, at the beginning of the data file.
absl::StatusOr<LayerBuilder::Result> FileTree(const FileLabel& file, uint64_t size);

}  // namespace imagefs
