// SPDX-License-Identifier: Apache-2.0
// Checks of the registry of one image, by the code that fetches images, and of the files that say
// which hosts serve registries.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cmd/client.h"
#include "cmd/doctor_checks.h"
#include "cmd/print_parts.h"
#include "cmd/source_options.h"
#include "fetch/credential_origin.h"
#include "fetch/hosts_files.h"
#include "fetch/kubelet_providers.h"
#include "fetch/source.h"
#include "image/index_bundle.h"
#include "image/index_tag.h"
#include "image/manifest.h"
#include "image/soci.h"
#include "image/toc.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFile = 1 << 20;
constexpr size_t kMostShown = 8;
// For all requests about the image; a registry that answers takes a tenth of it.
constexpr absl::Duration kPatience = absl::Seconds(5);
constexpr auto kDaemonPatience = std::chrono::seconds(5);
constexpr auto kPluginPatience = std::chrono::seconds(3);
constexpr int kMaxIndexDepth = 3;  // nesting of image indexes

template <typename T>
using Done = absl::AnyInvocable<void(absl::StatusOr<T>)>;

// Waits for the answer to `ask`, which is cancelled at the deadline.
template <typename T>
absl::StatusOr<T> AnswerOf(Moment deadline, absl::FunctionRef<void(CancelToken, Done<T>)> ask) {
  struct State {
    absl::Mutex mu;
    TimedCondition changed;
    std::optional<absl::StatusOr<T>> answer ABSL_GUARDED_BY(mu);
  };
  const auto state = std::make_shared<State>();
  CancelSource cancel;
  ask(cancel.token(), [state](absl::StatusOr<T> answer) {
    absl::MutexLock lock(&state->mu);
    state->answer = std::move(answer);
    state->changed.SignalAll();
  });
  {
    absl::MutexLock lock(&state->mu);
    while (!state->answer.has_value() && state->changed.WaitUntil(&state->mu, deadline)) {
    }
    if (state->answer.has_value()) return *std::move(state->answer);
  }
  cancel.Cancel();
  return absl::DeadlineExceededError(StrCat("no answer within ", absl::FormatDuration(kPatience)));
}

// Asks one source about one image.
class ImageQuery {
 public:
  ImageQuery(std::shared_ptr<ImageSource> source, Moment deadline)
      : source_(std::move(source)), deadline_(deadline) {}

  absl::StatusOr<ImageSource::FetchedManifest> GetManifest(const std::string& tag_or_digest) {
    return AnswerOf<ImageSource::FetchedManifest>(
        deadline_, [&](CancelToken cancel, Done<ImageSource::FetchedManifest> done) {
          source_->GetManifest(tag_or_digest, std::move(cancel), std::move(done));
        });
  }
  absl::StatusOr<std::vector<Descriptor>> GetReferrers(const Digest& subject) {
    return AnswerOf<std::vector<Descriptor>>(
        deadline_, [&](CancelToken cancel, Done<std::vector<Descriptor>> done) {
          source_->GetReferrers(subject, "", std::move(cancel), std::move(done));
        });
  }
  absl::StatusOr<std::string> GetConfig(const Descriptor& config) {
    return AnswerOf<std::string>(deadline_, [&](CancelToken cancel, Done<std::string> done) {
      source_->GetSmallBlob(config, kMaxConfigBytes, std::move(cancel), std::move(done));
    });
  }

  // As a mount does it: manifest, platform, configuration.
  absl::StatusOr<ResolvedImage> Resolve(const Reference& reference, const Platform& platform) {
    std::string name = reference.TagOrDigest();
    Digest index;
    for (int depth = 0; depth <= kMaxIndexDepth; ++depth) {
      IMAGEFS_ASSIGN_OR_RETURN(ImageSource::FetchedManifest fetched, GetManifest(name));
      IMAGEFS_ASSIGN_OR_RETURN(const ManifestOrIndex parsed,
                               ParseManifest(fetched.bytes, fetched.content_type));
      if (parsed.manifest.has_value()) {
        IMAGEFS_ASSIGN_OR_RETURN(std::string config, GetConfig(parsed.manifest->config));
        return MakeResolvedImage(reference.ToString(), index, std::move(fetched.bytes),
                                 fetched.content_type, std::move(config), platform);
      }
      if (depth == 0) index = fetched.digest;
      IMAGEFS_ASSIGN_OR_RETURN(const Descriptor chosen, ChoosePlatform(*parsed.index, platform));
      name = chosen.digest.ToString();
    }
    return absl::InvalidArgumentError("image indexes are nested too deeply");
  }

  // Returns what kind of index somebody has published for the image, or "".
  std::string FindIndex(const Digest& manifest) {
    if (GetManifest(IndexTagOf(manifest)).ok()) return "an imagefs index";
    const absl::StatusOr<std::vector<Descriptor>> referrers = GetReferrers(manifest);
    if (!referrers.ok()) return "";
    std::string soci;
    for (const Descriptor& one : *referrers) {
      if (one.artifact_type == kIndexArtifactType) return "an imagefs index";
      for (const std::string_view type : kSociIndexTypes) {
        if (one.artifact_type == type) soci = "a SOCI index";
      }
    }
    return soci;
  }

 private:
  const std::shared_ptr<ImageSource> source_;
  const Moment deadline_;
};

// A message ends with its remedy if it has one: "what: cause; remedy".
struct Parts {
  std::string found, remedy;
};
Parts PartsOf(std::string_view message, std::string_view remedy_if_none) {
  const size_t end = message.rfind("; ");
  if (end == std::string_view::npos) return {std::string(message), std::string(remedy_if_none)};
  return {std::string(message.substr(0, end)), std::string(message.substr(end + 2))};
}

// For messages without one.
std::string RemedyFor(const absl::Status& failure, const Reference& reference) {
  if (reference.transport != Reference::Transport::kRegistry) return "check the path and the tag";
  if (IsCredentialFailure(failure)) return LoginRemedy(reference.host);
  if (absl::IsNotFound(failure)) return "check the name, the tag and --platform";
  if (!IsRetriable(failure)) return "compare with another tool, for example `skopeo inspect`";
  return "check the network, the name server, HTTPS_PROXY and NO_PROXY, --ca-file, and the mirrors "
         "(docs/mirrors.md)";
}

std::string MeaningOf(const absl::Status& failure, const Reference& reference) {
  if (reference.transport != Reference::Transport::kRegistry) return "the image cannot be read";
  if (IsCredentialFailure(failure)) return "the registry does not give it to these credentials";
  if (absl::IsNotFound(failure)) {
    return "there is no such image for this platform, or these credentials may not see it";
  }
  return IsRetriable(failure) ? "the registry cannot be reached, or does not answer"
                              : "the image cannot be mounted";
}

class ImageCheck {
 public:
  ImageCheck(ClientSession& session, const DoctorArgs& args, const Config& config, bool daemon,
             DoctorReport& report)
      : session_(session), args_(args), config_(config), daemon_(daemon), report_(report) {}

  void Run() {
    absl::StatusOr<Reference> reference = session_.ParseReference(args_.reference);
    if (!reference.ok()) {
      report_.Problem("image", ToStd(reference.status().message()),
                      "it is unknown which registry is meant", "write it with its host");
      return;
    }
    reference_ = *std::move(reference);
    if (reference_.transport == Reference::Transport::kRegistry) {
      FindCredentials();
      ListEndpoints();
    }
    const absl::Status direct = Ask();
    if (daemon_) AskDaemon(direct);
  }

 private:
  void FindCredentials() {
    absl::StatusOr<CredentialOrigin> all = session_.credentials().Find(reference_, args_.image);
    if (!all.ok()) {
      report_.Problem("credentials", ToStd(all.status().message()),
                      "the image is requested without credentials",
                      "correct --creds or --authfile, or leave it out");
      return;
    }
    auto& [found, origin] = *all;
    if (!found.trouble.empty()) {
      const Parts parts = PartsOf(Printable(found.trouble, 1000), LoginRemedy(reference_.host));
      report_.Warning("credentials", parts.found, "the image is requested without credentials",
                      parts.remedy);
      return;
    }
    access_.credential = std::move(found.credential);
    if (access_.credential.empty() && !config_.kubelet_config.empty()) {
      KubeletProviders plugins(
          {config_.kubelet_config, config_.kubelet_bin_dir, kPluginPatience, nullptr});
      std::vector<Credential> answers = plugins.Find(reference_, nullptr);
      if (!answers.empty()) {
        access_.credential = std::move(answers[0]);
        origin = "a plugin of the kubelet";
      }
    }
    report_.Ok("credentials",
               access_.credential.empty()
                   ? StrCat("none for ", reference_.host, ": the image is requested anonymously")
                   : StrCat("for ", reference_.host, " from ", Printable(origin, 400)));
  }

  void ListEndpoints() {
    HostResolver resolver(config_.HostsOptions());
    const auto plan = resolver.PlanFor(reference_);
    if (!plan.ok()) {
      report_.Problem("endpoints", ToStd(plan.status().message()), "no host may be asked for it",
                      "correct that file (docs/mirrors.md)");
      return;
    }
    std::string found;
    for (const HostEndpoint& endpoint : **plan) {
      StrAppend(&found, found.empty() ? "" : ", then ", Printable(endpoint.Name()));
      if (!endpoint.origin.empty()) StrAppend(&found, " (", Printable(endpoint.origin), ")");
    }
    report_.Ok("endpoints", found);
  }

  // Once, without the daemon. Returns why the image cannot be fetched.
  absl::Status Ask() {
    SourceFactory::Options options =
        SourceOptionsOf(config_, session_.global().ca_file, session_.version());
    options.max_attempts = 1;
    options.mirror_credential = [](const Reference& mirror, const Credential& refused) {
      FoundCredential found = FindCredential(mirror, CredentialOptions::FromEnvironment());
      const bool again = found.credential.Fingerprint() == refused.Fingerprint();
      return again ? Credential() : std::move(found.credential);
    };
    const auto sources = SourceFactory::Create(options);
    absl::Status failure = sources.status();
    if (failure.ok()) failure = AskSources(**sources);
    if (failure.ok()) return failure;
    const Parts parts = PartsOf(ToStd(failure.message()), RemedyFor(failure, reference_));
    // With a daemon, it is the daemon that counts.
    report_.Add("image", daemon_ ? Finding::kWarning : Finding::kProblem, parts.found,
                MeaningOf(failure, reference_), parts.remedy);
    return failure;
  }

  absl::Status AskSources(SourceFactory& sources) {
    access_.plain_http = args_.image.plain_http;
    access_.verify_tls = !args_.image.skip_tls_verify;
    IMAGEFS_ASSIGN_OR_RETURN(const auto source, sources.Open(reference_, access_));
    Platform platform = Platform::Host();
    if (!args_.image.platform.empty()) {
      IMAGEFS_ASSIGN_OR_RETURN(platform, Platform::Parse(args_.image.platform));
    }
    const Moment deadline = Moment::Now() + kPatience;
    ImageQuery query(source, deadline);
    absl::StatusOr<ResolvedImage> image = query.Resolve(reference_, platform);
    for (const EndpointHealth::Row& row : sources.endpoints_in_trouble()) {
      report_.Warning("endpoints", StrCat(Printable(row.endpoint), ": ", Printable(row.cause, 400)),
                      "requests go to the next endpoint; this one is asked again after a pause",
                      "repair it, or remove it from the file that names it (docs/mirrors.md)");
    }
    // Some messages name the image already.
    const std::string name = reference_.ToString();
    const bool named = ToStd(image.status().message()).find(name) != std::string_view::npos;
    IMAGEFS_RETURN_IF_ERROR(named ? image.status() : Annotate(image.status(), name));
    uint64_t bytes = 0;
    for (const Descriptor& layer : image->manifest.layers) bytes += layer.size;
    report_.Ok("image",
               StrCat(reference_.ToString(), " is ", image->manifest_digest.Short(), ": ",
                      image->config.platform.ToString(), ", ",
                      Plural(image->manifest.layers.size(), "layer"), ", ", FormatBytes(bytes)));
    if (source->remote()) JudgeIndex(*image, query, sources, deadline);
    return absl::OkStatus();
  }

  void JudgeIndex(const ResolvedImage& image, ImageQuery& query, SourceFactory& sources,
                  Moment deadline) {
    if (!config_.index_lookup) {
      report_.Note("index", "index.lookup is false", "every mount fetches whole layers first",
                   "remove it from the configuration");
      return;
    }
    const auto& layers = image.manifest.layers;
    const auto with_toc = std::count_if(layers.begin(), layers.end(), [](const Descriptor& layer) {
      return FindToc(layer).has_value();
    });
    std::string found = query.FindIndex(image.manifest_digest);
    for (const std::string& text : config_.index_repositories) {
      if (!found.empty()) break;
      const absl::StatusOr<Reference> repository = Reference::Parse(text);
      if (!repository.ok()) continue;  // the configuration was checked
      const auto opened = sources.Open(*repository, {});
      if (!opened.ok()) continue;  // its own registry is no part of this check
      found = ImageQuery(*opened, deadline).FindIndex(image.manifest_digest);
      if (!found.empty()) StrAppend(&found, " in ", text);
    }
    if (found.empty() && SociIndexOf(image.manifest).has_value()) found = "a SOCI index";
    if (found.empty() && with_toc > 0) {
      found = StrCat("a table of contents in ", with_toc, " of ", Plural(layers.size(), "layer"));
    }
    if (!found.empty()) {
      report_.Ok("index", StrCat("there is ", found, ": a mount can be lazy"));
      return;
    }
    report_.Note("index", "nobody has published an index of it",
                 "a mount fetches whole layers before it returns",
                 StrCat("imagefs index --push ", reference_.ToString()));
  }

  void AskDaemon(const absl::Status& direct) {
    ImageOptions image = args_.image;
    image.pull = "always";
    auto request = session_.MakeImageRequest(args_.reference, image);
    absl::Status status = request.status();
    control::v1::InspectReply reply;
    if (status.ok()) {
      auto client = session_.ConnectToAny(kDaemonPatience);
      control::v1::InspectRequest inspect;
      *inspect.mutable_image() = *std::move(request);
      status = client.ok() ? (*client)->Inspect(inspect, &reply) : client.status();
    }
    if (status.ok()) {
      report_.Ok("image, by the daemon", StrCat("it resolves ", reference_.ToString(), " to ",
                                                ShortDigest(reply.image().manifest_digest())));
      return;
    }
    if (absl::IsDeadlineExceeded(status)) {
      status = absl::DeadlineExceededError(
          StrCat("it had no answer within ", kDaemonPatience.count(), " s"));
    }
    if (!direct.ok()) {
      const Parts parts = PartsOf(ToStd(status.message()), RemedyFor(status, reference_));
      report_.Problem("image, by the daemon", parts.found, MeaningOf(status, reference_),
                      parts.remedy);
      return;
    }
    report_.Problem("image, by the daemon", ToStd(status.message()),
                    "this shell can fetch the image, but the daemon cannot: it may have other "
                    "proxies, authorities or mirrors",
                    "compare the daemon's environment (/etc/default/imagefs) and --ca-file with "
                    "this shell's");
  }

  ClientSession& session_;
  const DoctorArgs& args_;
  const Config& config_;
  const bool daemon_;
  DoctorReport& report_;
  Reference reference_;
  SourceFactory::Access access_;
};

}  // namespace

void CheckHosts(const HostResolver::Options& options, DoctorReport& report) {
  HostResolver resolver(options);
  Reference any;
  any.host = "docker.io";
  any.repository = "library/any";
  std::map<std::string, absl::Status> broken;
  // Reads registries.conf and its drop-ins.
  if (const auto plan = resolver.PlanFor(any);
      !plan.ok() && !absl::IsPermissionDenied(plan.status())) {
    broken.emplace(ToStd(plan.status().message()), plan.status());
  }
  const std::vector<std::string> files = resolver.Files();
  for (const std::string& file : files) {
    if (!file.ends_with("/hosts.toml")) continue;
    const absl::StatusOr<std::string> text = ReadFile(file, kMaxFile);
    const absl::Status status = text.ok() ? ParseHostsToml(*text, file).status() : text.status();
    if (!status.ok()) broken.emplace(ToStd(status.message()), status);
  }
  for (const auto& [message, status] : broken) {
    report.Problem("mirrors", message, "images of the registries it is about cannot be fetched",
                   "correct that file (docs/mirrors.md)");
  }
  if (!broken.empty()) return;
  if (files.empty()) {
    report.Ok("mirrors", "no files name any: each registry is asked itself");
    return;
  }
  std::string found = "they are named by ";
  for (size_t i = 0; i < files.size() && i < kMostShown; ++i) {
    StrAppend(&found, i == 0 ? "" : ", ", PrintableName(files[i]));
  }
  if (files.size() > kMostShown) StrAppend(&found, " and ", files.size() - kMostShown, " more");
  report.Ok("mirrors", found);
}

void CheckImage(ClientSession& session, const DoctorArgs& args, const Config& config, bool daemon,
                DoctorReport& report) {
  ImageCheck(session, args, config, daemon, report).Run();
}

}  // namespace imagefs
