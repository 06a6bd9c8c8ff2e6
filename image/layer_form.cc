// SPDX-License-Identifier: Apache-2.0
#include "image/layer_form.h"

#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxPath = 4095, kMaxName = 255;
constexpr uint64_t kMinDataBytes = 512;  // a device of an index has at least one block

using Kind = LayerForm::Kind;

constexpr std::pair<Kind, std::string_view> kNames[] = {
    {Kind::kTar, "tar"},
    {Kind::kBlobTar, "blob tar"},
    {Kind::kFile, "file"},
    {Kind::kErofs, "erofs"},
};

std::string_view NameOf(Kind kind) {
  return std::find_if(std::begin(kNames), std::end(kNames),
                      [&](const auto& one) { return one.first == kind; })
      ->second;
}

absl::StatusOr<uint32_t> ReadNumber(const Json& json, std::string_view key, int64_t most) {
  const int64_t number = json.IntOr(key, -1);
  if (number < 0 || number > most) return absl::DataLossError(StrCat("its ", key, " is wrong"));
  return static_cast<uint32_t>(number);
}

}  // namespace

// The text is neither a tar nor an EROFS image, so no DiffID can be its digest.
Digest NameOfForm(const LayerForm& form, const Digest& of) {
  std::string text = StrCat("imagefs layer 1\nform ", NameOf(form.kind), "\nof ", of.ToString());
  if (form.kind == Kind::kBlobTar && !form.content.empty()) {
    StrAppend(&text, "\ntar ", form.content.ToString());
  }
  if (form.kind == Kind::kFile) {
    const FileLabel& file = form.file;
    StrAppend(&text, "\nmode ", file.mode, "\nowner ", file.uid, " ", file.gid, "\ntime ",
              file.mtime_seconds, " ", file.mtime_nanoseconds, "\npath ", file.path);
  }
  return Sha256Of(text);
}

void WriteForm(const LayerForm& form, JsonWriter& writer) {
  writer.BeginObject().Member("kind", NameOf(form.kind));
  if (!form.content.empty()) writer.Member("content", form.content.ToString());
  if (form.kind == Kind::kFile) {
    writer.Member("path", form.file.path)
        .Member("mode", uint64_t{form.file.mode})
        .Member("uid", uint64_t{form.file.uid})
        .Member("gid", uint64_t{form.file.gid})
        .Member("mtime", form.file.mtime_seconds)
        .Member("mtime_ns", uint64_t{form.file.mtime_nanoseconds});
  }
  writer.EndObject();
}

absl::StatusOr<LayerForm> ReadForm(const Json& json) {
  LayerForm form;
  const std::string name = json.StringOr("kind");
  const auto* known = std::find_if(std::begin(kNames), std::end(kNames),
                                   [&](const auto& one) { return one.second == name; });
  if (known == std::end(kNames)) return absl::DataLossError("its form is not known");
  form.kind = known->first;
  if (const std::string text = json.StringOr("content"); !text.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(form.content, Digest::Parse(text));
  }
  if (form.kind != Kind::kFile) return form;
  form.file.path = json.StringOr("path");
  IMAGEFS_RETURN_IF_ERROR(CheckFilePath(form.file.path));
  constexpr int64_t kMaxId = std::numeric_limits<uint32_t>::max();
  IMAGEFS_ASSIGN_OR_RETURN(form.file.mode, ReadNumber(json, "mode", 07777));
  IMAGEFS_ASSIGN_OR_RETURN(form.file.uid, ReadNumber(json, "uid", kMaxId));
  IMAGEFS_ASSIGN_OR_RETURN(form.file.gid, ReadNumber(json, "gid", kMaxId));
  IMAGEFS_ASSIGN_OR_RETURN(form.file.mtime_nanoseconds, ReadNumber(json, "mtime_ns", 999'999'999));
  form.file.mtime_seconds = json.IntOr("mtime", 0);
  return form;
}

absl::Status CheckFilePath(std::string_view path) {
  const auto refuse = [&](std::string_view why) {
    return absl::InvalidArgumentError(StrCat("the path \"", Printable(path), "\" ", why));
  };
  if (path.empty()) return absl::InvalidArgumentError("its path is empty");
  if (path.starts_with('/')) return refuse("is absolute");
  if (path.size() > kMaxPath) return refuse("is longer than 4,095 bytes");
  if (path.find('\0') != std::string_view::npos) return refuse("contains NUL");
  for (const std::string_view part : Split(path, '/')) {
    if (part.empty() || part == ".") return refuse("has a component without a name");
    if (part == "..") return refuse("contains \"..\"");
    if (part.size() > kMaxName) return refuse("has a name longer than 255 bytes");
    if (part.starts_with(".wh.")) return refuse("has a name that stands for a deleted file");
  }
  return absl::OkStatus();
}

absl::StatusOr<LayerBuilder::Result> FileTree(const FileLabel& file, uint64_t size) {
  TarEntry entry;
  entry.path = file.path;
  entry.mode = S_IFREG | file.mode;
  entry.uid = file.uid;
  entry.gid = file.gid;
  entry.mtime_seconds = file.mtime_seconds;
  entry.mtime_nanoseconds = file.mtime_nanoseconds;
  entry.size = size;
  if (size > 0) entry.extents.push_back({0, 0, size, 1});
  LayerBuilder builder;
  IMAGEFS_RETURN_IF_ERROR(builder.Add(entry));
  return std::move(builder).Finish(std::max(size, kMinDataBytes));
}

}  // namespace imagefs
