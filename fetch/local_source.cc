// SPDX-License-Identifier: Apache-2.0
#include "fetch/local_source.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_join.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/archive_source.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxIndexBytes = 4 << 20;
constexpr size_t kMaxImages = 10'000;
constexpr size_t kMaxNamesShown = 20;
constexpr size_t kReadBytes = 256 << 10;

constexpr std::string_view kRefName = "org.opencontainers.image.ref.name";
constexpr std::string_view kContainerdName = "io.containerd.image.name";
constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
constexpr std::string_view kDockerLayer = "application/vnd.docker.image.rootfs.diff.tar";

std::string BlobName(const Digest& digest) { return "blobs/sha256/" + digest.hex(); }

absl::Status Damaged(std::string_view path, std::string_view what) {
  return absl::DataLossError(StrCat(path, ": ", what, "; save the image again"));
}

// "alpine:3" and "docker.io/library/alpine:3" are the same name.
bool SameName(const std::string& a, const std::string& b) {
  if (a == b) return true;
  absl::StatusOr<Reference> x = Reference::Parse(a), y = Reference::Parse(b);
  return x.ok() && y.ok() && *x == *y;
}

std::string ListOf(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  const size_t count = names.size();
  names.resize(std::min(count, kMaxNamesShown));
  for (std::string& name : names) name = Printable(name);
  return StrCat(absl::StrJoin(names, ", "), count > names.size() ? ", ..." : "");
}

// Returns the N of "@N".
std::optional<uint64_t> Position(std::string_view tag) {
  return ConsumePrefix(&tag, "@") ? ParseDecimal(tag) : std::nullopt;
}

absl::Status NoImageAt(const std::string& path, std::string_view tag, size_t count) {
  return absl::NotFoundError(StrCat(path, ": there is no image ", Printable(tag), "; it has ",
                                    count, ", counted from @0"));
}

absl::Status NotTagged(const std::string& path, std::string_view tag,
                       std::vector<std::string> names) {
  if (names.empty()) {
    return absl::NotFoundError(StrCat(path, ": no image in it is named ", Printable(tag),
                                      "; none has a name, leave it out or use @0"));
  }
  return absl::NotFoundError(StrCat(path, ": no image in it is named ", Printable(tag),
                                    "; it has: ", ListOf(std::move(names))));
}

// Lists the candidates by name, if names distinguish them, and by position.
absl::Status Ambiguous(const std::string& path, std::vector<std::string> names,
                       const std::vector<size_t>& places) {
  std::vector<std::string> list;
  for (size_t place : places) list.push_back(StrCat("@", place));
  if (list.size() > kMaxNamesShown) {
    list.resize(kMaxNamesShown);
    list.push_back("...");
  }
  const std::string by_name =
      names.empty() ? "" : StrCat("its name (", ListOf(std::move(names)), ") or by ");
  return absl::InvalidArgumentError(StrCat(path, ": it may be one of ", places.size(),
                                           " images; choose one by ", by_name, "its place (",
                                           absl::StrJoin(list, ", "), ")"));
}

// Common to both kinds: blobs in files, read on the calling thread.
class LocalSource : public ImageSource {
 public:
  LocalSource(std::string auth_scope, std::unique_ptr<NamedFiles> files)
      : files_(std::move(files)), auth_scope_(std::move(auth_scope)) {}

  std::string auth_scope() const override { return auth_scope_; }
  std::string registry() const override { return files_->path(); }

  void HasBlob(const Descriptor& blob, CancelToken cancel, HasBlobDone done) override {
    if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
    const absl::StatusOr<LocalBlob> local = OpenBlob(blob.digest);
    if (!local.ok() && !absl::IsNotFound(local.status()) && !absl::IsDataLoss(local.status())) {
      return done(local.status());
    }
    done(local.ok() && local->length == blob.size);
  }

  void GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                   ManifestDone done) override {
    if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
    done(FindManifest(tag_or_digest));
  }

  void GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                    SmallBlobDone done) override {
    if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
    done(ReadSmall(blob, max_bytes));
  }

  absl::StatusOr<std::optional<LocalBlob>> OpenLocal(const Descriptor& blob) override {
    IMAGEFS_ASSIGN_OR_RETURN(LocalBlob local, OpenBlob(blob.digest));
    if (local.length != blob.size) {
      return Damaged(files_->path(), StrCat("blob ", blob.digest.ToString(), " has ", local.length,
                                            " bytes where its manifest says ", blob.size));
    }
    return std::optional<LocalBlob>(std::move(local));
  }

  void ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges, ReadOptions,
                CancelToken cancel, BlobSink sink, BlobDone done) override {
    done(ReadRanges(blob, ranges, cancel, sink));
  }

 protected:
  virtual absl::StatusOr<FetchedManifest> FindManifest(const std::string& tag_or_digest) const = 0;
  virtual absl::StatusOr<LocalBlob> OpenBlob(const Digest& digest) const = 0;
  const NamedFiles& files() const { return *files_; }

  absl::StatusOr<std::string> ReadSmall(const Descriptor& blob, uint64_t max_bytes) const {
    IMAGEFS_ASSIGN_OR_RETURN(LocalBlob local, OpenBlob(blob.digest));
    const std::string what = StrCat("blob ", blob.digest.ToString());
    if (local.length != blob.size) {
      return Damaged(files_->path(),
                     StrCat(what, " has ", local.length, " bytes instead of ", blob.size));
    }
    if (local.length > max_bytes) {
      return absl::InvalidArgumentError(StrCat(files_->path(), ": ", what, " has ", local.length,
                                               " bytes; at most ", max_bytes, " are allowed"));
    }
    absl::StatusOr<std::string> bytes = ReadLocalBlob(local);
    if (!bytes.ok()) return Annotate(bytes.status(), files_->path());
    if (Sha256Of(*bytes) != blob.digest) {
      return Damaged(files_->path(), StrCat(what, " has another digest than its name says"));
    }
    return bytes;
  }

 private:
  absl::Status ReadRanges(const Descriptor& blob, const std::vector<ByteRange>& ranges,
                          const CancelToken& cancel, BlobSink& sink) {
    if (cancel.cancelled()) return absl::CancelledError("cancelled");
    IMAGEFS_ASSIGN_OR_RETURN(const RangeSet all, UnionOf(blob, ranges));
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<LocalBlob> local, OpenLocal(blob));
    std::vector<char> buffer(kReadBytes);
    for (const ByteRange& range : all.ranges()) {
      for (uint64_t at = range.begin; at < range.end;) {
        if (cancel.cancelled()) return absl::CancelledError("cancelled");
        const size_t wanted = std::min<uint64_t>(buffer.size(), range.end - at);
        absl::StatusOr<size_t> got =
            PreadFull(local->fd.get(), absl::MakeSpan(buffer.data(), wanted), local->offset + at);
        if (!got.ok()) return Annotate(got.status(), files_->path());
        if (*got != wanted) {
          return Damaged(files_->path(), "it became shorter while it was read");
        }
        IMAGEFS_RETURN_IF_ERROR(sink(at, std::string_view(buffer.data(), wanted)));
        at += wanted;
      }
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<NamedFiles> files_;
  const std::string auth_scope_;
};

// ---- OCI layouts ----

class OciSource : public LocalSource {
 public:
  OciSource(std::string auth_scope, std::unique_ptr<NamedFiles> files, ImageIndex index)
      : LocalSource(std::move(auth_scope), std::move(files)), index_(std::move(index)) {}

 protected:
  absl::StatusOr<FetchedManifest> FindManifest(const std::string& tag_or_digest) const override {
    if (tag_or_digest.starts_with("sha256:")) {
      IMAGEFS_ASSIGN_OR_RETURN(Digest digest, Digest::Parse(tag_or_digest));
      IMAGEFS_ASSIGN_OR_RETURN(LocalBlob blob, OpenBlob(digest));
      Descriptor descriptor;
      descriptor.digest = digest;
      descriptor.size = blob.length;
      return ReadManifest(descriptor);
    }
    if (const std::optional<uint64_t> position = Position(tag_or_digest)) {
      if (*position >= index_.manifests.size()) {
        return NoImageAt(files().path(), tag_or_digest, index_.manifests.size());
      }
      return ReadManifest(index_.manifests[*position]);
    }
    std::vector<size_t> found;  // positions in the index
    std::vector<std::string> names;
    for (size_t place = 0; place < index_.manifests.size(); ++place) {
      const std::vector<std::string> own = NamesOf(index_.manifests[place]);
      names.insert(names.end(), own.begin(), own.end());
      const bool named = std::any_of(own.begin(), own.end(), [&](const std::string& name) {
        return SameName(name, tag_or_digest);
      });
      if (tag_or_digest.empty() || named) found.push_back(place);
    }
    if (found.empty() && !tag_or_digest.empty()) {
      return NotTagged(files().path(), tag_or_digest, std::move(names));
    }
    return Choose(std::move(found), tag_or_digest.empty());
  }

  absl::StatusOr<LocalBlob> OpenBlob(const Digest& digest) const override {
    absl::StatusOr<LocalBlob> blob = files().Open(BlobName(digest));
    if (absl::IsNotFound(blob.status())) {
      return absl::NotFoundError(StrCat(files().path(), ": blob ", digest.ToString(),
                                        " is missing; copy the image again with all its layers"));
    }
    return blob;
  }

 private:
  static std::vector<std::string> NamesOf(const Descriptor& descriptor) {
    std::vector<std::string> out;
    for (std::string_view key : {kRefName, kContainerdName}) {
      const auto found = descriptor.annotations.find(std::string(key));
      if (found != descriptor.annotations.end()) out.push_back(found->second);
    }
    return out;
  }

  const Descriptor& At(size_t place) const { return index_.manifests[place]; }

  // Returns the image among the entries at these positions, or an index if they differ in platform.
  // `by_name`: their names distinguish them.
  absl::StatusOr<FetchedManifest> Choose(std::vector<size_t> found, bool by_name) const {
    // An artifact is meant if there is no image: what accompanies an image is not.
    const bool images =
        std::any_of(found.begin(), found.end(), [&](size_t at) { return MayBeImage(At(at)); });
    std::erase_if(found, [&](size_t place) {
      const Descriptor& entry = At(place);
      return images ? !MayBeImage(entry) : !MayBeArtifact(entry);
    });
    // One image may be listed under several names.
    absl::flat_hash_set<std::string> seen;
    for (size_t place : found) {
      if (At(place).platform) seen.insert(At(place).digest.ToString());
    }
    std::erase_if(found, [&](size_t place) {
      const std::optional<Platform>& platform = At(place).platform;
      const std::string digest = At(place).digest.ToString();
      return !seen.insert(platform ? StrCat(digest, " ", platform->ToString()) : digest).second;
    });
    if (found.empty()) {
      return absl::NotFoundError(StrCat(files().path(), ": the layout has no image"));
    }
    if (found.size() > 1 && !DifferInPlatform(found)) found = WithoutArtifacts(std::move(found));
    if (found.size() == 1) return ReadManifest(At(found[0]));
    if (DifferInPlatform(found)) return MakeIndex(found);
    std::vector<std::string> names;
    for (size_t place : found) {
      for (std::string& name : NamesOf(At(place))) names.push_back(std::move(name));
    }
    if (!by_name) names.clear();
    return Ambiguous(files().path(), std::move(names), found);
  }

  bool DifferInPlatform(const std::vector<size_t>& found) const {
    absl::flat_hash_set<std::string> seen;
    return std::all_of(found.begin(), found.end(), [&](size_t place) {
      const std::optional<Platform>& platform = At(place).platform;
      return platform && seen.insert(platform->ToString()).second;
    });
  }

  // Removes entries whose manifests show that they are not images. Keeps unreadable ones, and keeps
  // all if none would remain, so that the error is about what is there.
  std::vector<size_t> WithoutArtifacts(std::vector<size_t> found) const {
    std::vector<size_t> images;
    for (size_t place : found) {
      const absl::StatusOr<FetchedManifest> bytes = ReadManifest(At(place));
      if (bytes.ok()) {
        const absl::StatusOr<ManifestOrIndex> parsed =
            ParseManifest(bytes->bytes, bytes->content_type);
        if (parsed.ok() && parsed->manifest && !MayBeImage(*parsed->manifest)) continue;
      }
      images.push_back(place);
    }
    return images.empty() ? found : images;
  }

  absl::StatusOr<FetchedManifest> ReadManifest(const Descriptor& descriptor) const {
    FetchedManifest out;
    out.digest = descriptor.digest;
    out.content_type = descriptor.media_type;
    IMAGEFS_ASSIGN_OR_RETURN(out.bytes, ReadSmall(descriptor, kMaxManifestBytes));
    return out;
  }

  // Builds an index of the images with one name, to choose a platform from.
  FetchedManifest MakeIndex(const std::vector<size_t>& found) const {
    JsonWriter json;
    json.BeginObject().Member("schemaVersion", int64_t{2}).Member("mediaType", kOciIndex);
    json.Key("manifests").BeginArray();
    for (size_t place : found) {
      const Descriptor& descriptor = At(place);
      json.BeginObject()
          .Member("mediaType", descriptor.media_type)
          .Member("digest", descriptor.digest.ToString())
          .Member("size", descriptor.size);
      json.Key("platform")
          .BeginObject()
          .Member("os", descriptor.platform->os)
          .Member("architecture", descriptor.platform->architecture)
          .Member("variant", descriptor.platform->variant)
          .EndObject()
          .EndObject();
    }
    json.EndArray().EndObject();
    FetchedManifest out;
    out.bytes = json.Take();
    out.digest = Sha256Of(out.bytes);
    out.content_type = std::string(kOciIndex);
    return out;
  }

  const ImageIndex index_;
};

absl::StatusOr<std::shared_ptr<ImageSource>> MakeOciSource(const Reference& reference,
                                                           std::unique_ptr<NamedFiles> files) {
  const std::string path = files->path();
  absl::StatusOr<std::string> text = files->Read("index.json", kMaxIndexBytes);
  if (absl::IsNotFound(text.status())) {
    const bool docker = files->Open("manifest.json").ok();
    return absl::InvalidArgumentError(StrCat(
        path, ": it is not an OCI image layout, since it contains no index.json",
        docker ? "; it looks like the output of docker save: write docker-archive:FILE" : ""));
  }
  if (!text.ok()) return text.status();
  absl::StatusOr<ManifestOrIndex> index = ParseManifest(*text, "");
  if (!index.ok()) return Annotate(index.status(), path + ": index.json");
  if (!index->index) return absl::InvalidArgumentError(path + ": its index.json is not an index");
  if (index->index->manifests.size() > kMaxImages) {
    return absl::InvalidArgumentError(StrCat(path, ": it lists more than ", kMaxImages, " images"));
  }
  return std::make_shared<OciSource>(reference.ToString(), std::move(files),
                                     *std::move(index->index));
}

// ---- docker archives ----

struct SavedImage {
  std::string config;
  std::vector<std::string> names;
  std::vector<std::string> layers;
};

absl::StatusOr<std::vector<std::string>> Strings(const Json& json, std::string_view what) {
  std::vector<std::string> out;
  if (json.size() > kMaxLayers) {
    return absl::InvalidArgumentError(StrCat(what, " has more than ", kMaxLayers, " members"));
  }
  if (!json.is_array()) return out;
  for (const Json& element : json.elements()) {
    std::optional<std::string> text = element.string();
    if (!text)
      return absl::InvalidArgumentError(StrCat(what, " has a member that is not a string"));
    out.push_back(*std::move(text));
  }
  return out;
}

absl::StatusOr<std::vector<SavedImage>> ParseSavedImages(std::string_view text) {
  absl::StatusOr<Json> root = Json::Parse(text);
  if (!root.ok()) return root.status();
  if (!root->is_array() || root->size() == 0) {
    return absl::InvalidArgumentError("it is not a list of images");
  }
  if (root->size() > kMaxImages) {
    return absl::InvalidArgumentError(StrCat("it lists more than ", kMaxImages, " images"));
  }
  std::vector<SavedImage> out;
  for (const Json& element : root->elements()) {
    SavedImage image;
    image.config = element.StringOr("Config");
    if (image.config.empty()) return absl::InvalidArgumentError("an image has no Config");
    IMAGEFS_ASSIGN_OR_RETURN(image.names, Strings(element["RepoTags"], "RepoTags"));
    IMAGEFS_ASSIGN_OR_RETURN(image.layers, Strings(element["Layers"], "Layers"));
    out.push_back(std::move(image));
  }
  return out;
}

// Returns the digest implied by a file name: ".../<64 hex>" or "<64 hex>.json"; none otherwise.
std::optional<Digest> DigestInName(std::string_view name) {
  const size_t slash = name.rfind('/');
  if (slash != std::string_view::npos) name.remove_prefix(slash + 1);
  if (name.ends_with(".json")) name.remove_suffix(5);
  absl::StatusOr<Digest> digest = Digest::Parse(StrCat("sha256:", name));
  return digest.ok() ? std::optional<Digest>(*digest) : std::nullopt;
}

absl::StatusOr<Digest> HashBlob(const LocalBlob& blob) {
  Sha256 hash;
  std::vector<char> buffer(kReadBytes);
  for (uint64_t at = 0; at < blob.length;) {
    const size_t wanted = std::min<uint64_t>(buffer.size(), blob.length - at);
    IMAGEFS_ASSIGN_OR_RETURN(
        size_t got,
        PreadFull(blob.fd.get(), absl::MakeSpan(buffer.data(), wanted), blob.offset + at));
    if (got != wanted) return absl::DataLossError("it became shorter while it was read");
    hash.Update(std::string_view(buffer.data(), wanted));
    at += wanted;
  }
  return hash.Finish();
}

class DockerArchiveSource : public LocalSource {
 public:
  DockerArchiveSource(std::string auth_scope, std::unique_ptr<NamedFiles> files,
                      std::vector<SavedImage> images)
      : LocalSource(std::move(auth_scope), std::move(files)), images_(std::move(images)) {}

  // Synthesizes the manifests, so that blobs can be requested by digest.
  absl::Status Prepare() {
    for (const SavedImage& image : images_) {
      absl::Status status = AddImage(image);
      if (!status.ok()) return Annotate(status, files().path());
    }
    return absl::OkStatus();
  }

 protected:
  absl::StatusOr<FetchedManifest> FindManifest(const std::string& tag_or_digest) const override {
    std::vector<size_t> found;
    std::vector<std::string> names;
    const std::optional<uint64_t> position = Position(tag_or_digest);
    if (position && *position >= images_.size()) {
      return NoImageAt(files().path(), tag_or_digest, images_.size());
    }
    for (size_t i = 0; i < images_.size(); ++i) {
      const std::vector<std::string>& own = images_[i].names;
      names.insert(names.end(), own.begin(), own.end());
      const bool named = std::any_of(own.begin(), own.end(), [&](const std::string& name) {
        return SameName(name, tag_or_digest);
      });
      if (tag_or_digest.empty() || (position && *position == i) || named ||
          manifests_[i].digest.ToString() == tag_or_digest) {
        found.push_back(i);
      }
    }
    if (found.empty()) return NotTagged(files().path(), tag_or_digest, std::move(names));
    if (found.size() > 1 && tag_or_digest.empty()) {
      return Ambiguous(files().path(), std::move(names), found);
    }
    return manifests_[found[0]];
  }

  absl::StatusOr<LocalBlob> OpenBlob(const Digest& digest) const override {
    const auto found = blobs_.find(digest);
    if (found == blobs_.end()) {
      return absl::NotFoundError(
          StrCat(files().path(), ": there is no blob ", digest.ToString(), " in it"));
    }
    return files().Open(found->second);
  }

 private:
  struct Layer {
    Digest digest;
    uint64_t size = 0;
    std::string media_type;
  };

  absl::Status AddImage(const SavedImage& image) {
    IMAGEFS_ASSIGN_OR_RETURN(std::string config_json, files().Read(image.config, kMaxConfigBytes));
    const Digest config_digest = Sha256Of(config_json);
    // Ignore the digest in its name: users edit configurations in such archives, and all tools
    // accept them. The image is identified by the digest of the actual bytes.
    IMAGEFS_ASSIGN_OR_RETURN(ImageConfig config, ParseImageConfig(config_json));
    if (config.diff_ids.size() != image.layers.size()) {
      return absl::InvalidArgumentError(StrCat("manifest.json lists ", image.layers.size(),
                                               " layers, but the configuration ",
                                               config.diff_ids.size(), " diff_ids"));
    }
    blobs_[config_digest] = image.config;
    std::vector<Layer> layers;
    for (size_t i = 0; i < image.layers.size(); ++i) {
      IMAGEFS_ASSIGN_OR_RETURN(Layer layer, AddLayer(image.layers[i], config.diff_ids[i]));
      layers.push_back(std::move(layer));
    }
    manifests_.push_back(MakeManifest(config_digest, config_json.size(), layers));
    return absl::OkStatus();
  }

  // The digest of a plain tar is its DiffID; stores of compressed layers name files by the digest
  // of the compressed bytes.
  absl::StatusOr<Layer> AddLayer(const std::string& name, const Digest& diff_id) {
    IMAGEFS_ASSIGN_OR_RETURN(LocalBlob blob, files().Open(name));
    char head[4] = {};
    IMAGEFS_ASSIGN_OR_RETURN(
        size_t got, PreadFull(blob.fd.get(),
                              absl::MakeSpan(head, std::min<uint64_t>(sizeof(head), blob.length)),
                              blob.offset));
    const std::string_view magic(head, got);
    Layer out;
    out.size = blob.length;
    out.media_type = std::string(kDockerLayer);
    out.digest = diff_id;
    const bool gzip = magic.starts_with("\x1f\x8b"), zstd = magic == "\x28\xb5\x2f\xfd";
    if (gzip || zstd) {
      out.media_type += gzip ? ".gzip" : ".zstd";
      if (const std::optional<Digest> promised = DigestInName(name)) {
        out.digest = *promised;
      } else {
        IMAGEFS_ASSIGN_OR_RETURN(out.digest, HashBlob(blob));
      }
    }
    blobs_[out.digest] = name;
    return out;
  }

  static FetchedManifest MakeManifest(const Digest& config_digest, uint64_t config_size,
                                      const std::vector<Layer>& layers) {
    JsonWriter json;
    const auto describe = [&json](std::string_view type, uint64_t size, const Digest& digest) {
      json.BeginObject()
          .Member("mediaType", type)
          .Member("size", size)
          .Member("digest", digest.ToString())
          .EndObject();
    };
    json.BeginObject().Member("schemaVersion", int64_t{2}).Member("mediaType", kDockerManifest);
    json.Key("config");
    describe(kDockerConfig, config_size, config_digest);
    json.Key("layers").BeginArray();
    for (const Layer& layer : layers) describe(layer.media_type, layer.size, layer.digest);
    json.EndArray().EndObject();
    FetchedManifest out;
    out.bytes = json.Take();
    out.digest = Sha256Of(out.bytes);
    out.content_type = std::string(kDockerManifest);
    return out;
  }

  const std::vector<SavedImage> images_;
  std::vector<FetchedManifest> manifests_;  // parallel to images_
  absl::flat_hash_map<Digest, std::string> blobs_;
};

absl::StatusOr<std::shared_ptr<ImageSource>> MakeDockerSource(const Reference& reference,
                                                              std::unique_ptr<NamedFiles> files) {
  const std::string path = files->path();
  absl::StatusOr<std::string> text = files->Read("manifest.json", kMaxIndexBytes);
  if (absl::IsNotFound(text.status())) {
    const bool oci = files->Open("index.json").ok();
    return absl::InvalidArgumentError(
        StrCat(path, ": it is not the output of docker save, since it contains no manifest.json",
               oci ? "; it looks like an OCI archive: write oci-archive:FILE" : ""));
  }
  if (!text.ok()) return text.status();
  absl::StatusOr<std::vector<SavedImage>> images = ParseSavedImages(*text);
  if (!images.ok()) return Annotate(images.status(), path + ": manifest.json");
  auto source = std::make_shared<DockerArchiveSource>(reference.ToString(), std::move(files),
                                                      *std::move(images));
  IMAGEFS_RETURN_IF_ERROR(source->Prepare());
  return source;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ImageSource>> OpenLocalSource(const Reference& reference) {
  switch (reference.transport) {
    case Reference::Transport::kOciLayout: {
      IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<NamedFiles> files, OpenDirectory(reference.path));
      return MakeOciSource(reference, std::move(files));
    }
    case Reference::Transport::kOciArchive: {
      IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<NamedFiles> files, OpenArchive(reference.path));
      return MakeOciSource(reference, std::move(files));
    }
    case Reference::Transport::kDockerArchive: {
      IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<NamedFiles> files, OpenArchive(reference.path));
      return MakeDockerSource(reference, std::move(files));
    }
    case Reference::Transport::kRegistry:
      break;
  }
  return absl::InternalError(StrCat(reference.ToString(), " is not a local image"));
}

}  // namespace imagefs
