// SPDX-License-Identifier: Apache-2.0
#include "cmd/publish.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/registry_writer.h"
#include "image/hot_pack.h"
#include "image/index_bundle.h"
#include "image/index_signature.h"
#include "image/index_tag.h"
#include "image/manifest.h"

namespace imagefs {
namespace {

constexpr std::string_view kManifestMediaType = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kIndexMediaType = "application/vnd.oci.image.index.v1+json";

// Returns a regular file as a member of a ustar archive (POSIX.1-1988).
std::string TarMember(const std::string& name, std::string_view data) {
  std::string header(512, '\0');
  auto put = [&header](size_t at, const std::string& text) {
    header.replace(at, text.size(), text);
  };
  auto octal = [](uint64_t value, int digits) {
    char text[24];
    snprintf(text, sizeof(text), "%0*llo", digits, static_cast<unsigned long long>(value));
    return std::string(text);
  };
  put(0, name);
  put(100, octal(0644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(data.size(), 11));
  put(136, octal(0, 11));
  put(148, "        ");
  put(156, "0");
  put(257, std::string("ustar\0"
                       "00",
                       8));
  uint64_t sum = 0;
  for (const char c : header) sum += static_cast<uint8_t>(c);
  put(148, octal(sum, 6) + '\0' + ' ');
  std::string out = header + std::string(data);
  out.append((512 - data.size() % 512) % 512, '\0');
  return out;
}

// Writes the artifact as an OCI archive that `skopeo copy oci-archive:` and `oras` can read.
absl::Status WriteArchive(const std::string& path, const std::string& manifest,
                          const std::vector<std::string>& blobs) {
  auto blob = [](const std::string& bytes) {
    return TarMember("blobs/sha256/" + Sha256Of(bytes).hex(), bytes);
  };
  std::string archive = TarMember("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
  archive += TarMember(
      "index.json", StrCat(R"({"schemaVersion":2,"mediaType":")", kIndexMediaType,
                           R"(","manifests":[{"mediaType":")", kManifestMediaType,
                           R"(","digest":")", Sha256Of(manifest).ToString(), R"(","size":)",
                           manifest.size(), R"(,"artifactType":")", kIndexArtifactType, R"("}]})"));
  archive += blob(manifest);
  archive += blob("{}");  // the empty configuration
  for (const std::string& bytes : blobs) archive += blob(bytes);
  archive.append(1024, '\0');
  return WriteFileDurably(path, archive, 0644);
}

std::vector<std::string> KeyIds(const std::map<std::string, std::string>& signatures) {
  std::vector<std::string> out;
  for (const auto& [name, text] : signatures) {
    out.push_back(name.substr(kSignatureAnnotationPrefix.size()));
  }
  return out;
}

// Parses an artifact as those who fetch it will.
absl::StatusOr<Manifest> ParseArtifact(const std::string& bytes, const std::string& content_type) {
  IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed, ParseManifest(bytes, content_type));
  if (!parsed.manifest.has_value()) return absl::InvalidArgumentError("not a manifest");
  return *std::move(parsed.manifest);
}

bool IsAboutRun(std::string_view media_type) {
  return media_type == kProfileMediaType || media_type == kHotPackMediaType;
}

// Returns whether `artifact` could be replaced by the same with a profile, and nothing be lost.
bool LacksProfile(const Manifest& artifact) {
  return SignatureAnnotations(artifact).empty() &&
         std::none_of(artifact.layers.begin(), artifact.layers.end(),
                      [](const Descriptor& layer) { return IsAboutRun(layer.media_type); });
}

}  // namespace

// Counts one publication for as long as this object lives.
class Publications::Counted {
 public:
  // REQUIRES: the caller has incremented running_.
  explicit Counted(Publications& owner) : owner_(owner) {}
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() {
    absl::MutexLock lock(&owner_.mu_);
    --owner_.running_;
  }

 private:
  Publications& owner_;
};

class Publications::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(Publications& owner, PublishRequest request, Done done)
      : counted_(owner),
        owner_(owner),
        store_(owner.deps_.store),
        sources_(owner.deps_.sources),
        executor_(owner.deps_.executor),
        request_(std::move(request)),
        done_(std::move(done)) {}

  // Either token cancels the work.
  void CancelWith(const CancelToken& caller, const CancelToken& stop) {
    auto cancel = [source = cancel_]() mutable { source.Cancel(); };
    by_caller_ = caller.OnCancel(cancel);
    by_stop_ = stop.OnCancel(cancel);
  }

  void Start() {
    if (!request_.only_if_absent) return MakeIndexes();
    // A cache may answer: if it knows an index, there is one.
    absl::StatusOr<std::shared_ptr<ImageSource>> source =
        sources_.Open(*request_.to, request_.access);
    if (!source.ok()) return done_(source.status());
    IfAbsent(*source, [self = shared_from_this()] {
      self->MakeIndexes();
      return absl::OkStatus();
    });
  }

 private:
  using Next = std::function<absl::Status()>;

  // Calls `next`, on a thread that may block, unless `source` lists an index that stays.
  void IfAbsent(const std::shared_ptr<ImageSource>& source, Next next) {
    source->GetReferrers(
        request_.image->manifest_digest, std::string(kIndexArtifactType), cancel_.token(),
        [self = shared_from_this(), source,
         next = std::move(next)](const absl::StatusOr<std::vector<Descriptor>>& found) {
          if (!found.ok()) return self->done_(found.status());
          if (!found->empty() && self->request_.with_profile) {
            return self->IfWithoutProfile(source, next);
          }
          if (!found->empty()) return self->Keep();
          if (absl::Status status = next(); !status.ok()) self->done_(status);
        });
  }

  // The same where there is an index: what the tag of an index names may lack a profile.
  void IfWithoutProfile(const std::shared_ptr<ImageSource>& source, Next next) {
    source->GetManifest(Tag(), cancel_.token(),
                        [self = shared_from_this(), source, next = std::move(next)](
                            const absl::StatusOr<ImageSource::FetchedManifest>& there) {
                          if (absl::IsNotFound(there.status())) return self->Keep();
                          if (!there.ok()) return self->done_(there.status());
                          const absl::StatusOr<Manifest> artifact =
                              ParseArtifact(there->bytes, there->content_type);
                          if (!artifact.ok() || !LacksProfile(*artifact)) return self->Keep();
                          if (absl::Status status = next(); !status.ok()) self->done_(status);
                        });
  }

  // Ends this job: the index that is there stays.
  void Keep() {
    result_.absent = false;
    done_(std::move(result_));
  }

  void MakeIndexes() {
    const FlightTicket ticket =
        store_.MakeIndexes(request_.image, request_.source,
                           [self = shared_from_this()](absl::StatusOr<ChainRef> chain) {
                             if (!chain.ok()) return self->done_(chain.status());
                             self->executor_.Submit([self, chain = *chain] {
                               if (absl::Status status = self->Pack(*chain); !status.ok())
                                 self->done_(status);
                             });
                           });
    CancelToken::Registration registration = cancel_.token().OnCancel([ticket] { ticket.Leave(); });
    absl::MutexLock lock(&mu_);
    on_cancel_ = std::move(registration);
  }

  bool signing() const { return request_.statement_only || !request_.signatures.empty(); }

  // The error says why the index of that layer is not published. Only layers verified by this store
  // are published, because an index vouches for a tree.
  absl::StatusOr<PackedBundle> PackLayer(const Layer& layer) {
    IndexBundle bundle;
    absl::StatusOr<std::string> span_table =
        ReadFile(layer.directory + "/access", kMaxUnpackedBundle);
    if (absl::IsNotFound(span_table.status())) {
      return absl::UnimplementedError("its blob cannot be read in parts (one large zstd frame)");
    }
    IMAGEFS_RETURN_IF_ERROR(span_table.status());
    bundle.span_table = *std::move(span_table);
    if (!layer.proven()) {
      return absl::FailedPreconditionError("the layer was mounted before it was proven");
    }
    IMAGEFS_ASSIGN_OR_RETURN(bundle.index,
                             ReadFile(layer.directory + "/index", kMaxUnpackedBundle));
    IMAGEFS_ASSIGN_OR_RETURN(PackedBundle packed, PackBundle(bundle));
    if (packed.index.size() + packed.windows.size() > kMaxBundleBytes) {
      return absl::ResourceExhaustedError("its index is too large");
    }
    return packed;
  }

  // Blocks on disk and CPU.
  absl::Status Pack(const Chain& chain) {
    artifact_.artifact_type = std::string(kIndexArtifactType);
    artifact_.subject.media_type = request_.image->manifest.media_type;
    if (artifact_.subject.media_type.empty()) {
      artifact_.subject.media_type = request_.image->content_type;
    }
    artifact_.subject.digest = request_.image->manifest_digest;
    artifact_.subject.size = request_.image->manifest_json.size();
    for (size_t i = 0; i < chain.layers.size(); ++i) {
      if (cancel_.token().cancelled()) return absl::CancelledError("nobody waits for the index");
      const Descriptor& blob = request_.image->manifest.layers[i];
      PublishResult::Layer about{blob.digest, blob.size, 0, ""};
      absl::StatusOr<PackedBundle> packed = PackLayer(*chain.layers[i]);
      if (packed.ok()) {
        about.index_bytes = packed->index.size() + packed->windows.size();
        const std::map<std::string, std::string> annotations = {
            {std::string(kLayerAnnotation), blob.digest.ToString()},
            {std::string(kDiffIdAnnotation), chain.layers[i]->diff_id.ToString()}};
        Add(std::move(packed->index), kLayerIndexMediaType, annotations);
        if (!packed->windows.empty()) {
          Add(std::move(packed->windows), kLayerWindowsMediaType, annotations);
        }
      } else {
        about.reason = std::string(packed.status().message());
      }
      result_.layers.push_back(std::move(about));
    }
    if (result_.layers.empty()) {
      return absl::FailedPreconditionError(
          StrCat(request_.image->reference, " has no layers: there is nothing to index"));
    }
    if (artifact_.layers.empty()) {
      return absl::FailedPreconditionError(
          StrCat(request_.image->reference, ": no layer of it has an index to be ",
                 signing() ? "signed: " : "published: ", result_.layers[0].reason));
    }
    if (request_.with_profile) {
      IMAGEFS_ASSIGN_OR_RETURN(const Profile profile,
                               store_.profiles().Get(request_.image->manifest_digest));
      Add(profile.ToJson(), kProfileMediaType, {});
      IMAGEFS_RETURN_IF_ERROR(AddHotPack(chain, profile));
    }
    return Sign();
  }

  // The pages are read from layers whose bytes are all here and were hashed.
  absl::Status AddHotPack(const Chain& chain, const Profile& profile) {
    std::vector<HotPack::Layer> layers;
    std::vector<LayerRef> local;
    uint64_t blob_bytes = 0;
    for (size_t i = 0; i < chain.layers.size(); ++i) {
      const LayerRef& layer = chain.layers[i];
      blob_bytes += request_.image->manifest.layers[i].size;
      const std::pair<Digest, uint64_t> key = {layer->diff_id, layer->data_bytes};
      const bool recorded =
          std::find(profile.layers.begin(), profile.layers.end(), key) != profile.layers.end();
      if (!recorded || !layer->proven() || !layer->complete()) continue;
      layers.push_back({layer->diff_id, layer->data_bytes});
      local.push_back(layer);
    }
    std::vector<HotPack::Piece> parts;
    for (const Profile::Part& part : profile.parts) {
      const auto it = std::find_if(layers.begin(), layers.end(),
                                   [&](const auto& one) { return one.diff_id == part.layer; });
      if (it == layers.end()) continue;
      parts.push_back({static_cast<uint32_t>(it - layers.begin()), part.range});
    }
    const auto read = [&](uint32_t layer, uint64_t offset, absl::Span<char> out) {
      return PreadExact(local[layer]->data.get(), out, offset, "a layer's data");
    };
    // Readers take no more than this (cache/index_finder.h).
    const uint64_t most = MaxHotPackBytes(blob_bytes);
    PackedHotPack pack;
    for (uint64_t pages = kMaxPackDataBytes; pack.bytes.empty(); pages /= 2) {
      IMAGEFS_ASSIGN_OR_RETURN(pack, PackHotPages(layers, parts, pages, read));
      if (pack.bytes.empty()) return absl::OkStatus();
      if (pack.bytes.size() > most) pack.bytes.clear();
    }
    result_.hot_pack_bytes = pack.bytes.size();
    result_.hot_pack_data_bytes = pack.data_bytes;
    const std::string_view header = std::string_view(pack.bytes).substr(0, pack.header_bytes);
    std::map<std::string, std::string> annotations = {
        {std::string(kPackHeaderAnnotation), Sha256Of(header).ToString()},
        {std::string(kPackHeaderBytesAnnotation), StrCat(pack.header_bytes)}};
    Add(std::move(pack.bytes), kHotPackMediaType, std::move(annotations));
    return absl::OkStatus();
  }

  void Add(std::string bytes, std::string_view media_type,
           std::map<std::string, std::string> annotations) {
    RegistryWriter::Layer layer;
    layer.media_type = std::string(media_type);
    layer.annotations = std::move(annotations);
    layer.blob.digest = Sha256Of(bytes);
    layer.blob.size = bytes.size();
    if (!request_.file.empty()) blobs_.push_back(bytes);
    layer.blob.bytes = RegistryWriter::FromMemory(std::move(bytes));
    artifact_.layers.push_back(std::move(layer));
  }

  absl::Status Sign() {
    IMAGEFS_ASSIGN_OR_RETURN(const Manifest made, ParseArtifact(ArtifactManifest(artifact_), ""));
    statement_ = IndexStatement(made);
    if (request_.statement_only) {
      result_.statement = std::move(statement_);
      done_(std::move(result_));
      return absl::OkStatus();
    }
    if (!request_.signatures.empty() &&
        Sha256Of(statement_).ToString() != request_.statement_digest) {
      return absl::AbortedError(StrCat(request_.image->reference,
                                       ": its index or profile changed while it was being signed; "
                                       "run imagefs index again"));
    }
    if (request_.signatures.size() > kMaxSignatures) {
      return absl::InvalidArgumentError(StrCat(request_.image->reference,
                                               ": an index is signed by at most ", kMaxSignatures,
                                               " keys, not by ", request_.signatures.size()));
    }
    for (const std::string& text : request_.signatures) {
      IMAGEFS_ASSIGN_OR_RETURN(auto annotation, SignatureAnnotation(text));
      artifact_.annotations.insert(std::move(annotation));
    }
    if (!request_.to.has_value()) return Finish();
    IMAGEFS_ASSIGN_OR_RETURN(writer_, sources_.OpenWriter(*request_.to, request_.access));
    Spread();
    return absl::OkStatus();
  }

  // Goes on after the pause, or when it is cancelled.
  void Spread() {
    if (request_.spread <= absl::ZeroDuration()) return Look();
    thread_local std::minstd_rand random(std::random_device{}());
    const absl::Duration pause =
        request_.spread * std::uniform_real_distribution<double>(0, 1)(random);
    Timer timer = owner_.After(pause, [self = shared_from_this()] { self->EndPause(); });
    {
      absl::MutexLock lock(&mu_);
      pause_ = std::move(timer);
    }
    CancelToken::Registration registration = cancel_.token().OnCancel([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->EndPause();
    });
    absl::MutexLock lock(&mu_);
    pause_on_cancel_ = std::move(registration);
  }

  void EndPause() {
    Timer pause;
    {
      absl::MutexLock lock(&mu_);
      if (pause_ended_) return;
      pause_ended_ = true;
      pause = std::move(pause_);
    }
    executor_.Submit([self = shared_from_this()] {
      if (self->cancel_.token().cancelled()) {
        return self->done_(absl::CancelledError("nobody waits for the index"));
      }
      self->Look();
    });
  }

  // What is at the destination just before the push. No cache is asked: it may say what was true
  // before another node pushed.
  void Look() {
    if (!request_.only_if_absent) return ReadTag();
    IfAbsent(writer_->target(), [self = shared_from_this()] {
      self->ReadTag();
      return absl::OkStatus();
    });
  }

  std::string Tag() const { return IndexTagOf(request_.image->manifest_digest); }

  // Reads the existing artifact, which others may have signed.
  void ReadTag() {
    const std::shared_ptr<ImageSource> target = writer_->target();
    target->GetManifest(
        Tag(), cancel_.token(),
        [self = shared_from_this(), target](absl::StatusOr<ImageSource::FetchedManifest> there) {
          // For a repository that does not exist yet, a registry may deny access instead of
          // reporting it absent. If the credentials are wrong, the push reports that.
          const bool absent =
              absl::IsNotFound(there.status()) || IsCredentialFailure(there.status());
          if (!there.ok() && !absent) return self->done_(there.status());
          self->executor_.Submit([self, there = std::move(there)] {
            if (there.ok() && self->IsKept(*there)) return;
            if (absl::Status status = self->Finish(); !status.ok()) self->done_(status);
          });
        });
  }

  bool IsThisWithoutProfile(const Manifest& old) const {
    RegistryWriter::Artifact bare = artifact_;
    std::erase_if(bare.layers, [](const auto& layer) { return IsAboutRun(layer.media_type); });
    const absl::StatusOr<Manifest> made = ParseArtifact(ArtifactManifest(bare), "");
    return made.ok() && IndexStatement(*made) == IndexStatement(old);
  }

  // Takes over the signatures of `there`. Returns true if the artifact stays as it is and `done_`
  // has been called.
  bool IsKept(const ImageSource::FetchedManifest& there) {
    const absl::StatusOr<Manifest> old = ParseArtifact(there.bytes, there.content_type);
    if (!old.ok()) return false;
    if (request_.only_if_absent && !(LacksProfile(*old) && IsThisWithoutProfile(*old))) {
      Keep();
      return true;
    }
    const bool same = IndexStatement(*old) == statement_;
    for (const auto& [name, text] : SignatureAnnotations(*old)) {
      if (artifact_.annotations.count(name) > 0) continue;
      if (same && artifact_.annotations.size() < kMaxSignatures) {
        artifact_.annotations[name] = text;
      } else {
        result_.signatures_lost.push_back(name.substr(kSignatureAnnotationPrefix.size()));
      }
    }
    return false;
  }

  absl::Status Finish() {
    manifest_ = ArtifactManifest(artifact_);
    result_.artifact = Sha256Of(manifest_).ToString();
    result_.signed_by = KeyIds(artifact_.annotations);
    if (!request_.file.empty()) {
      IMAGEFS_RETURN_IF_ERROR(WriteArchive(request_.file, manifest_, blobs_));
      result_.file = request_.file;
    }
    if (!request_.to.has_value()) {
      done_(std::move(result_));
      return absl::OkStatus();
    }
    Push();
    return absl::OkStatus();
  }

  void Push() {
    writer_->PushArtifact(
        std::move(artifact_), cancel_.token(),
        [self = shared_from_this()](absl::StatusOr<RegistryWriter::PushedArtifact> pushed) {
          if (!pushed.ok()) return self->done_(pushed.status());
          self->result_.listed_by_tag = pushed->listed_by_tag;
          self->result_.sent_bytes = pushed->sent_bytes;
          self->PushTag();
        });
  }

  // With this tag it is found with one request instead of two.
  void PushTag() {
    writer_->PushManifest(
        Tag(), std::string(kManifestMediaType), manifest_, cancel_.token(),
        [self = shared_from_this()](const absl::StatusOr<RegistryWriter::PushedManifest>& pushed) {
          if (!pushed.ok()) return self->done_(pushed.status());
          self->result_.repository =
              StrCat(self->request_.to->host, "/", self->request_.to->repository);
          self->done_(std::move(self->result_));
        });
  }

  // First, so that it is destroyed after everything else of this job.
  const Counted counted_;
  Publications& owner_;
  ImageStore& store_;
  SourceFactory& sources_;
  Executor& executor_;
  const PublishRequest request_;
  CancelSource cancel_;
  CancelToken::Registration by_caller_, by_stop_;  // set before the work starts
  Done done_;
  PublishResult result_;
  RegistryWriter::Artifact artifact_;
  std::vector<std::string> blobs_;  // the artifact's blobs, for an archive
  std::string statement_;
  std::string manifest_;
  std::shared_ptr<RegistryWriter> writer_;
  absl::Mutex mu_;
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
  Timer pause_ ABSL_GUARDED_BY(mu_);
  CancelToken::Registration pause_on_cancel_ ABSL_GUARDED_BY(mu_);
  bool pause_ended_ ABSL_GUARDED_BY(mu_) = false;
};

void Publications::Start(PublishRequest request, CancelToken cancel, Done done) {
  bool refused;
  {
    absl::MutexLock lock(&mu_);
    refused = stopping_;
    if (!refused) ++running_;
  }
  if (refused) return done(absl::CancelledError("the daemon stops"));
  auto job = std::make_shared<Job>(*this, std::move(request), std::move(done));
  job->CancelWith(cancel, stop_.token());
  job->Start();
}

Timer Publications::After(absl::Duration pause, absl::AnyInvocable<void()> call) {
  absl::MutexLock lock(&mu_);
  if (timers_ == nullptr) timers_ = std::make_unique<TimerQueue>(ThreadRole::kTimers);
  return timers_->After(pause, std::move(call));
}

int Publications::running() const {
  absl::MutexLock lock(&mu_);
  return running_;
}

void Publications::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  stop_.Cancel();
  absl::MutexLock lock(&mu_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ == 0; };
  mu_.Await(absl::Condition(&none));
}

}  // namespace imagefs
