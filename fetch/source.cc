// SPDX-License-Identifier: Apache-2.0
#include "fetch/source.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fetch/local_source.h"
#include "fetch/registry.h"
#include "fetch/registry_writer.h"

namespace imagefs {
namespace {

constexpr char kRetryAfterPayload[] = "imagefs/retry-after";
// They only wait for local disk.
constexpr int kAnswerThreads = 4;

class RegistryAwareFactory : public SourceFactory {
 public:
  RegistryAwareFactory(const Options& options, std::unique_ptr<HttpClient> http)
      : answers_(ThreadRole::kAnswers, kAnswerThreads),
        shared_(std::make_shared<RegistryShared>(*http, answers_, options)),
        http_(std::move(http)) {}

  ~RegistryAwareFactory() override {
    shared_->Close();
    shared_->refreshes.Close();
  }

  absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference& reference,
                                                    const Access& access) override {
    if (reference.transport != Reference::Transport::kRegistry) return OpenLocalSource(reference);
    if (reference.host.empty() || reference.repository.empty()) {
      return absl::InvalidArgumentError("a registry's reference needs a host and a repository");
    }
    IMAGEFS_ASSIGN_OR_RETURN(std::shared_ptr<RegistryRoute> route,
                             RegistryRoute::Create(shared_, reference, access));
    return std::make_shared<RegistrySource>(shared_, std::move(route), access);
  }

  absl::StatusOr<std::shared_ptr<RegistryWriter>> OpenWriter(const Reference& reference,
                                                             const Access& access) override {
    if (reference.transport != Reference::Transport::kRegistry || reference.host.empty() ||
        reference.repository.empty()) {
      return absl::InvalidArgumentError(
          StrCat("cannot push to ", Printable(reference.ToString()),
                 ": it is not a repository of a registry; use --to REPOSITORY"));
    }
    return MakeRegistryWriter(shared_, reference, access);
  }

  Counters counters() const override {
    Counters counters;
    counters.http = http_->counters();
    counters.tokens = shared_->tokens.counters();
    counters.retries = shared_->retries.load(std::memory_order_relaxed);
    counters.resumes = shared_->resumes.load(std::memory_order_relaxed);
    counters.redirects = shared_->redirects.load(std::memory_order_relaxed);
    counters.failovers = shared_->failovers.load(std::memory_order_relaxed);
    return counters;
  }

  std::vector<EndpointTraffic::Row> traffic() const override { return http_->traffic(); }

  std::string TroubleOf(const std::string& registry) const override {
    return shared_->TroubleOf(registry);
  }
  std::vector<EndpointHealth::Row> endpoints_in_trouble() const override {
    return shared_->health.Rows(std::chrono::steady_clock::now());
  }
  std::vector<std::string> hosts_files() const override { return shared_->resolver.Files(); }

 private:
  Executor answers_;  // destroyed last: work that ends before still needs it
  const std::shared_ptr<RegistryShared> shared_;
  const std::unique_ptr<HttpClient> http_;  // destroyed first, ending all work
};

}  // namespace

absl::Status WithRetryAfter(absl::Status failure, std::chrono::seconds pause) {
  failure.SetPayload(kRetryAfterPayload, absl::Cord(StrCat(pause.count())));
  return failure;
}

std::optional<std::chrono::seconds> RetryAfterOf(const absl::Status& failure) {
  const auto payload = failure.GetPayload(kRetryAfterPayload);
  if (!payload) return std::nullopt;
  const std::optional<uint64_t> seconds = ParseDecimal(std::string(*payload));
  if (!seconds) return std::nullopt;
  return std::chrono::seconds(std::min<uint64_t>(*seconds, 1U << 30));
}

void ImageSource::GetReferrers(const Digest& /*subject*/, const std::string& /*artifact_type*/,
                               CancelToken cancel, ReferrersDone done) {
  const CancelToken token = std::move(cancel);
  if (token.cancelled()) return done(absl::CancelledError("request cancelled"));
  done(std::vector<Descriptor>());
}

absl::StatusOr<RangeSet> ImageSource::UnionOf(const Descriptor& blob,
                                              const std::vector<ByteRange>& ranges) {
  RangeSet wanted;
  for (const ByteRange& range : ranges) {
    if (range.end < range.begin || range.end > blob.size) {
      return absl::InvalidArgumentError(StrCat("blob ", blob.digest.Short(), ": range ",
                                               range.begin, "-", range.end, " is outside its ",
                                               blob.size, " bytes"));
    }
    if (!range.empty()) wanted.Add(range);
  }
  return wanted;
}

absl::StatusOr<std::unique_ptr<SourceFactory>> SourceFactory::Create(const Options& options) {
  IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<HttpClient> http, HttpClient::Create(options.http));
  return std::unique_ptr<SourceFactory>(new RegistryAwareFactory(options, std::move(http)));
}

}  // namespace imagefs
