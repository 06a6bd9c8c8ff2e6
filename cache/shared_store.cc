// SPDX-License-Identifier: Apache-2.0
#include "cache/shared_store.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/directory.h"
#include "base/failure.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/image_row.h"

namespace imagefs {
namespace {

constexpr char kMarker[] = "/imagefs-store.json";
constexpr int64_t kFormat = 1;
constexpr uint64_t kMaxRecordBytes = 1 << 20;
constexpr mode_t kDirMode = 0755, kFileMode = 0644;  // others are to read it

std::string LayerDir(const std::string& root, const Digest& diff_id) {
  return StrCat(root, "/layers/", diff_id.hex());
}

std::string ImageDir(const std::string& root, const Reference& reference) {
  return StrCat(root, "/images/", Sha256Of(reference.ToString()).hex());
}

std::string LayerJson(const SharedLayer& layer) {
  JsonWriter writer(/*pretty=*/true);
  writer.BeginObject()
      .Member("format", kFormat)
      .Member("diff_id", layer.diff_id.ToString())
      .Member("tar_bytes", layer.tar_bytes)
      .Member("data_bytes", layer.data_bytes);
  if (!layer.form.is_tar()) WriteForm(layer.form, writer.Key("form"));
  writer.Key("origins").BeginArray();
  for (const BlobOrigin& origin : layer.origins) {
    writer.BeginObject()
        .Member("blob", origin.blob.ToString())
        .Member("registry", origin.registry)
        .EndObject();
  }
  writer.EndArray().EndObject();
  return writer.Take() + "\n";
}

absl::Status CheckFormat(const Json& json) {
  const int64_t format = json.IntOr("format", 0);
  if (format == kFormat) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("its format is ", format, ", this program knows ", kFormat));
}

absl::StatusOr<SharedLayer> ReadLayer(const std::string& root, const Digest& diff_id) {
  const std::string directory = LayerDir(root, diff_id);
  IMAGEFS_ASSIGN_OR_RETURN(const std::string text,
                           ReadFile(directory + "/layer.json", kMaxRecordBytes));
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  IMAGEFS_RETURN_IF_ERROR(CheckFormat(json));
  SharedLayer layer;
  IMAGEFS_ASSIGN_OR_RETURN(layer.diff_id, Digest::Parse(json.StringOr("diff_id")));
  const int64_t tar_bytes = json.IntOr("tar_bytes", -1), data_bytes = json.IntOr("data_bytes", -1);
  if (layer.diff_id != diff_id || tar_bytes < 0 || data_bytes < tar_bytes) {
    return absl::DataLossError("its record is wrong");
  }
  if (json["form"].exists()) {
    IMAGEFS_ASSIGN_OR_RETURN(layer.form, ReadForm(json["form"]));
  }
  layer.tar_bytes = static_cast<uint64_t>(tar_bytes);
  layer.data_bytes = static_cast<uint64_t>(data_bytes);
  for (const Json& one : json["origins"].elements()) {
    // That a blob needs no credentials is not believed: the registry is asked.
    BlobOrigin origin;
    IMAGEFS_ASSIGN_OR_RETURN(origin.blob, Digest::Parse(one.StringOr("blob")));
    origin.registry = one.StringOr("registry");
    layer.origins.push_back(std::move(origin));
  }
  if (!IsCheckable(layer)) return absl::DataLossError("its name is not that of its form");
  layer.data = directory + "/data";
  return layer;
}

absl::StatusOr<std::string> ReadDocument(const std::string& root, const Digest& digest,
                                         uint64_t max_bytes) {
  const std::string path = StrCat(root, "/documents/", digest.hex());
  IMAGEFS_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path, max_bytes));
  if (Sha256Of(bytes) == digest) return bytes;
  return absl::DataLossError(StrCat(path, " has another digest"));
}

absl::StatusOr<SharedStores::Listed> ReadImage(const std::string& root, const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxRecordBytes));
  IMAGEFS_ASSIGN_OR_RETURN(const ImageRow row, ImageRow::Parse(text));
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(row.reference));
  IMAGEFS_ASSIGN_OR_RETURN(std::string manifest,
                           ReadDocument(root, row.manifest, kMaxManifestBytes));
  IMAGEFS_ASSIGN_OR_RETURN(std::string config, ReadDocument(root, row.config, kMaxConfigBytes));
  // Which index listed the manifest is not believed: image verifiers are asked about that.
  IMAGEFS_ASSIGN_OR_RETURN(ResolvedImage image,
                           MakeResolvedImage(reference.ToString(), Digest(), std::move(manifest),
                                             row.content_type, std::move(config), Platform()));
  image.layer_ids = image.config.diff_ids;  // shared stores hold proven layers only
  return SharedStores::Listed{root, std::make_shared<const ResolvedImage>(std::move(image)),
                              row.created};
}

// A store that is not mounted has nothing.
absl::Status UnlessMissing(const absl::Status& status) {
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

// Replaces `path`, below `root`, atomically; readable by everybody regardless of the umask.
absl::Status WriteShared(const std::string& root, const std::string& path, std::string_view bytes) {
  const std::string temporary = StrCat(root, "/tmp-", RandomHex(8));
  IMAGEFS_RETURN_IF_ERROR(WriteFileDurably(temporary, bytes, kFileMode));
  if (chmod(temporary.c_str(), kFileMode) != 0) return ErrnoStatus(errno, temporary);
  if (rename(temporary.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, path);
  return FsyncDir(ParentOf(path));
}

// Like MakeDirs for the last component, regardless of the umask.
absl::Status MakeSharedDir(const std::string& path) {
  if (mkdir(path.c_str(), kDirMode) != 0) {
    return errno == EEXIST ? absl::OkStatus() : ErrnoStatus(errno, path);
  }
  return chmod(path.c_str(), kDirMode) == 0 ? absl::OkStatus() : ErrnoStatus(errno, path);
}

// Copies the data file and compares the tar in it with its digest.
absl::Status CopyData(const Fd& from, const Fd& to, const SharedLayer& layer,
                      const CancelToken& cancel) {
  const bool cloned = ioctl(to.get(), FICLONE, from.get()) == 0;
  const int source = cloned ? to.get() : from.get();
  std::string buffer(1 << 20, '\0');
  Sha256 hash;
  for (uint64_t at = 0; at < layer.data_bytes; at += buffer.size()) {
    if (cancel.cancelled()) return absl::CancelledError("the export was cancelled");
    const size_t want = std::min<uint64_t>(buffer.size(), layer.data_bytes - at);
    const absl::Span<char> part(buffer.data(), want);
    IMAGEFS_RETURN_IF_ERROR(PreadExact(source, part, at, "the layer's data file"));
    const std::string_view bytes(buffer.data(), want);
    if (at < layer.tar_bytes) hash.Update(bytes.substr(0, layer.tar_bytes - at));
    if (!cloned) IMAGEFS_RETURN_IF_ERROR(PwriteFull(to.get(), bytes, at));
  }
  const Digest& expected = layer.form.is_tar() ? layer.diff_id : layer.form.content;
  if (hash.Finish() == expected) return absl::OkStatus();
  return absl::DataLossError(
      StrCat("layer ", layer.diff_id.ToString(), " is damaged; repair it with: imagefs check"));
}

// What killed exports left.
void RemoveUnfinished(const std::string& root) {
  for (const char* folder : {"", "/layers"}) {
    for (const std::string& name : ListDirOrWarn(root + folder)) {
      if (!name.starts_with("tmp-")) continue;
      if (absl::Status status = RemoveTree(StrCat(root, folder, "/", name)); !status.ok()) {
        LogWarning("shared.cleanup_failed path=", root, folder, "/", name,
                   " cause=", status.message());
      }
    }
  }
}

// Returns whether the directory is a shared store already; kFailedPrecondition if it is another.
absl::StatusOr<bool> IsStore(const std::string& root) {
  if (access((root + kMarker).c_str(), F_OK) == 0) {
    IMAGEFS_RETURN_IF_ERROR(CheckSharedStore(root));
    return true;
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(root));
  for (const std::string& name : names) {
    // `lock` and `tmp-`: of an export that was killed before it wrote the marker.
    if (name == "lock" || name == "lost+found" || name.starts_with("tmp-")) continue;
    return absl::FailedPreconditionError(
        StrCat(root, " is not empty and not a store made by imagefs export-store (it has ", name,
               "); name another directory"));
  }
  return false;
}

}  // namespace

absl::Status CheckSharedStore(const std::string& directory) {
  const absl::StatusOr<std::string> marker = ReadFile(directory + kMarker, kMaxRecordBytes);
  if (absl::IsNotFound(marker.status())) {
    return absl::FailedPreconditionError(
        StrCat(directory, " is no store made by imagefs export-store (it has no ", kMarker + 1,
               "); images in archives are mounted and pulled by name, for example oci:DIR"));
  }
  IMAGEFS_RETURN_IF_ERROR(marker.status());
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(*marker));
  return Annotate(CheckFormat(json), directory);
}

// The name of a tar of an artifact tells the tar only if the artifact states its digest.
bool IsCheckable(const SharedLayer& layer) {
  using Kind = LayerForm::Kind;
  const LayerForm& form = layer.form;
  if (form.kind == Kind::kTar) return true;
  if (form.kind != Kind::kBlobTar) return NameOfForm(form, form.content) == layer.diff_id;
  return !form.content.empty() &&
         std::any_of(layer.origins.begin(), layer.origins.end(), [&](const BlobOrigin& origin) {
           return NameOfForm(form, origin.blob) == layer.diff_id;
         });
}

absl::StatusOr<Fd> OpenSharedData(const SharedLayer& layer) {
  // Not to wait for the writer of a FIFO.
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, OpenFile(layer.data, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(fd, layer.data));
  if (S_ISREG(st.st_mode) && static_cast<uint64_t>(st.st_size) == layer.data_bytes) return fd;
  return absl::FailedPreconditionError(
      StrCat(layer.data, " is no plain file of ", layer.data_bytes, " bytes"));
}

void SharedStores::Note(const std::string& root, const absl::Status& status) const {
  const std::string trouble(status.message());
  absl::MutexLock lock(&mu_);
  std::string& told = troubles_[root];
  if (told == trouble) return;
  told = trouble;
  if (!trouble.empty()) LogWarning("shared.unreadable store=", root, " cause=", trouble);
}

absl::StatusOr<SharedLayer> SharedStores::FindLayer(const Digest& diff_id) const {
  for (const std::string& root : roots_) {
    absl::StatusOr<SharedLayer> layer = ReadLayer(root, diff_id);
    if (layer.ok()) return layer;
    Note(root, Annotate(UnlessMissing(layer.status()), StrCat("layer ", diff_id.Short())));
  }
  return absl::NotFoundError(StrCat("no shared store has layer ", diff_id.ToString()));
}

std::vector<std::string> SharedStores::NamesIn(const std::string& root,
                                               const std::string& directory) const {
  absl::StatusOr<std::vector<std::string>> names = ListDir(directory);
  if (names.ok()) return *std::move(names);
  Note(root, UnlessMissing(names.status()));
  return {};
}

std::vector<SharedStores::Listed> SharedStores::ImagesIn(const std::string& root,
                                                         const std::string& directory) const {
  std::vector<Listed> images;
  for (const std::string& name : NamesIn(root, directory)) {
    absl::StatusOr<Listed> image = ReadImage(root, StrCat(directory, "/", name));
    Note(root, image.status());
    if (image.ok()) images.push_back(*std::move(image));
  }
  return images;
}

absl::StatusOr<ImageRef> SharedStores::FindImage(const Reference& reference,
                                                 const Platform& platform) const {
  for (const std::string& root : roots_) {
    for (const Listed& found : ImagesIn(root, ImageDir(root, reference))) {
      if (found.image->reference != reference.ToString()) continue;
      if (platform.Matches(found.image->config.platform)) return found.image;
    }
  }
  return absl::NotFoundError(StrCat("no shared store has ", reference.ToString()));
}

std::vector<SharedStores::Listed> SharedStores::List() const {
  std::vector<Listed> listed;
  for (const std::string& root : roots_) {
    for (const std::string& reference : NamesIn(root, root + "/images")) {
      for (Listed& image : ImagesIn(root, StrCat(root, "/images/", reference))) {
        listed.push_back(std::move(image));
      }
    }
  }
  return listed;
}

absl::Status SharedStoreWriter::Check(const std::string& directory) {
  return access(directory.c_str(), F_OK) == 0 ? IsStore(directory).status() : absl::OkStatus();
}

absl::StatusOr<SharedStoreWriter> SharedStoreWriter::Open(const std::string& directory) {
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(ParentOf(directory)));
  IMAGEFS_RETURN_IF_ERROR(MakeSharedDir(directory));
  IMAGEFS_ASSIGN_OR_RETURN(const bool exists, IsStore(directory));
  IMAGEFS_ASSIGN_OR_RETURN(Fd lock,
                           OpenFile(directory + "/lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, directory + "/lock");
    return WithKind(absl::UnavailableError(StrCat("another process is adding to ", directory,
                                                  "; try again when it has ended")),
                    FailureKind::kBusy);
  }
  for (const char* folder : {"/layers", "/images", "/documents"}) {
    IMAGEFS_RETURN_IF_ERROR(MakeSharedDir(directory + folder));
  }
  if (!exists) {
    JsonWriter writer;
    writer.BeginObject().Member("format", kFormat).EndObject();
    IMAGEFS_RETURN_IF_ERROR(WriteShared(directory, directory + kMarker, writer.Take() + "\n"));
  }
  RemoveUnfinished(directory);
  return SharedStoreWriter(directory, std::move(lock));
}

// The layer is there; another image may have it from another blob.
absl::Status SharedStoreWriter::AddOrigins(const std::string& directory, const SharedLayer& layer) {
  IMAGEFS_ASSIGN_OR_RETURN(SharedLayer there, ReadLayer(root_, layer.diff_id));
  bool more = false;
  for (const BlobOrigin& origin : layer.origins) {
    const bool known =
        std::any_of(there.origins.begin(), there.origins.end(), [&](const BlobOrigin& one) {
          return one.blob == origin.blob && one.registry == origin.registry;
        });
    if (known) continue;
    there.origins.push_back(origin);
    more = true;
  }
  return more ? WriteShared(root_, directory + "/layer.json", LayerJson(there)) : absl::OkStatus();
}

absl::StatusOr<uint64_t> SharedStoreWriter::PutLayer(const SharedLayer& layer, const Fd& data,
                                                     const CancelToken& cancel) {
  const std::string target = LayerDir(root_, layer.diff_id);
  if (const absl::StatusOr<struct stat> st = StatPath(target + "/data");
      st.ok() && static_cast<uint64_t>(st->st_size) == layer.data_bytes) {
    IMAGEFS_RETURN_IF_ERROR(Annotate(AddOrigins(target, layer), target));
    return 0;
  }
  const std::string directory = StrCat(root_, "/layers/tmp-", RandomHex(8));
  const absl::Cleanup remove = [&directory] {
    if (absl::Status status = RemoveTree(directory); !status.ok()) {
      LogWarning("shared.cleanup_failed path=", directory, " cause=", status.message());
    }
  };
  IMAGEFS_RETURN_IF_ERROR(MakeSharedDir(directory));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd copy,
                           OpenFile(directory + "/data", O_RDWR | O_CREAT | O_EXCL, kFileMode));
  if (fchmod(copy.get(), kFileMode) != 0) return ErrnoStatus(errno, directory);
  IMAGEFS_RETURN_IF_ERROR(Annotate(CopyData(data, copy, layer, cancel), target));
  IMAGEFS_RETURN_IF_ERROR(FsyncFd(copy.get(), directory + "/data"));
  IMAGEFS_RETURN_IF_ERROR(WriteShared(root_, directory + "/layer.json", LayerJson(layer)));
  // A directory without a record, or with data of another size, is of nobody's use.
  IMAGEFS_RETURN_IF_ERROR(RemoveTree(target));
  if (rename(directory.c_str(), target.c_str()) != 0) return ErrnoStatus(errno, target);
  IMAGEFS_RETURN_IF_ERROR(FsyncDir(ParentOf(target)));
  return layer.data_bytes;
}

absl::Status SharedStoreWriter::PutDocument(const Digest& digest, const std::string& bytes) {
  if (ReadDocument(root_, digest, bytes.size()).ok()) return absl::OkStatus();
  return WriteShared(root_, StrCat(root_, "/documents/", digest.hex()), bytes);
}

absl::Status SharedStoreWriter::PutImage(const ResolvedImage& image) {
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(image.reference));
  IMAGEFS_RETURN_IF_ERROR(PutDocument(image.manifest_digest, image.manifest_json));
  IMAGEFS_RETURN_IF_ERROR(PutDocument(image.manifest.config.digest, image.config_json));
  ImageRow row;
  row.reference = image.reference;
  row.manifest = image.manifest_digest;
  row.config = image.manifest.config.digest;
  row.index = image.index_digest;
  row.content_type = image.content_type;
  row.created = static_cast<int64_t>(time(nullptr));
  row.layers = image.config.diff_ids;
  const std::string directory = ImageDir(root_, reference);
  IMAGEFS_RETURN_IF_ERROR(MakeSharedDir(directory));
  IMAGEFS_RETURN_IF_ERROR(FsyncDir(ParentOf(directory)));
  const std::string name = Sha256Of(image.config.platform.ToString()).hex();
  return WriteShared(root_, StrCat(directory, "/", name), row.ToJson() + "\n");
}

}  // namespace imagefs
