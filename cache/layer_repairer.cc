// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_repairer.h"

#include <utility>

namespace imagefs {

LayerRepairer::LayerRepairer(LayerStore& layers, ForEachImage images, Open open)
    : layers_(layers), images_(std::move(images)), open_(std::move(open)) {}

LayerRepairer::~LayerRepairer() {
  std::vector<FlightTicket> tickets;
  {
    absl::MutexLock lock(&mu_);
    tickets.swap(tickets_);
  }
  for (const FlightTicket& ticket : tickets) ticket.Leave();
}

void LayerRepairer::WithSource(
    absl::FunctionRef<bool(const ResolvedImage&, size_t layer)> is_it,
    absl::FunctionRef<void(const ResolvedImage&, size_t layer, std::shared_ptr<ImageSource>)> use)
    const {
  images_([&](const ResolvedImage& image) {
    for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
      if (!is_it(image, i)) continue;
      const absl::StatusOr<Reference> reference = Reference::Parse(image.reference);
      if (!reference.ok()) continue;
      absl::StatusOr<std::shared_ptr<ImageSource>> source = open_(*reference);
      if (!source.ok()) continue;
      use(image, i, *std::move(source));
      return false;
    }
    return true;
  });
}

void LayerRepairer::AddSource(FillingLayer& filling) const {
  WithSource(
      [&](const ResolvedImage& image, size_t i) {
        return image.manifest.layers[i].digest == filling.span_table().blob_digest();
      },
      [&](const ResolvedImage&, size_t, std::shared_ptr<ImageSource> source) {
        filling.AddSource(std::move(source));
      });
}

FlightTicket LayerRepairer::Fetch(const Digest& id, const Digest& diff_id,
                                  absl::AnyInvocable<void(absl::Status)> done) const {
  FlightTicket ticket;
  WithSource(
      [&](const ResolvedImage& image, size_t i) {
        return image.config.diff_ids[i] == diff_id &&
               (id == diff_id || (i < image.layer_ids.size() && image.layer_ids[i] == id));
      },
      [&](const ResolvedImage& image, size_t i, std::shared_ptr<ImageSource> source) {
        LayerStore::Request request = RequestOf(image, i, std::move(source));
        request.recorded = id;
        ticket = layers_.Ensure(
            std::move(request), Priority::kForeground,
            [this, done = std::move(done)](absl::StatusOr<LayerRef> layer) mutable {
              if (!layer.ok()) return done(layer.status());
              layers_.WaitDurable({(*layer)->id},
                                  [layer = *layer, done = std::move(done)](
                                      absl::Status status) mutable { done(std::move(status)); });
            });
      });
  if (done) done(absl::NotFoundError("no image of the store has the layer, or can be opened"));
  return ticket;
}

void LayerRepairer::Refetch(const Digest& diff_id, const LayerObserver::Heal& heal) {
  WithSource(
      [&](const ResolvedImage& image, size_t i) { return image.config.diff_ids[i] == diff_id; },
      [&](const ResolvedImage& image, size_t i, std::shared_ptr<ImageSource> source) {
        const FlightTicket ticket =
            layers_.Ensure(RequestOf(image, i, std::move(source)), Priority::kForeground,
                           [heal](absl::StatusOr<LayerRef> layer) {
                             if (layer.ok()) heal(*std::move(layer));
                           });
        absl::MutexLock lock(&mu_);
        tickets_.push_back(ticket);
      });
}

}  // namespace imagefs
